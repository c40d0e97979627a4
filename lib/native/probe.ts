/**
 * Loads a published binary in a child process before this one does: one that does not fit this machine would end the
 * process instead of throwing. A good verdict is kept in the cache, under all that it depends on; a bad one is not, for
 * it may be mended.
 */
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inChild } from "./child.ts";
import type { Binary } from "./binary.ts";
import { userCache } from "../toolchain/libtorch/cache.ts";
import type { LibtorchFolder } from "../toolchain/libtorch/libtorch-folder.ts";

/** Why `binary` does not load with `libtorch`; undefined if it does, now or when it was last tried. */
export function probe(
  binary: Binary,
  libtorch: LibtorchFolder,
  env: NodeJS.ProcessEnv = process.env,
): string | undefined {
  // A process that may not start others finds out by itself.
  const mayStart = (process as { permission?: { has: (scope: string) => boolean } }).permission?.has("child") ?? true;
  if (env["MEMFORMER_SKIP_PROBE"] === "1" || !mayStart) return undefined;
  const file = join(userCache(env), "probes.json"),
    key = keyOf(binary, libtorch);
  const known = read(file);
  if (known[key] !== undefined) return undefined;
  const { failure } = inChild("load", "m.loadAddon()", {
    ...env,
    MEMFORMER_SKIP_PROBE: "1",
    MEMFORMER_LIBTORCH: libtorch.root,
  });
  if (failure !== undefined) return failure;
  keep(file, { ...known, [key]: new Date().toISOString() });
  return undefined;
}

/** Why the libraries of a LibTorch do not open; undefined if they do. */
export function probeLibtorch({ root, variant }: LibtorchFolder): string | undefined {
  const call = `m.testLoadLibtorch(${JSON.stringify(root)}, ${JSON.stringify(variant)})`;
  const { failure, said } = inChild("load", `console.log(${call} ?? "")`, process.env);
  return failure ?? (said === "" ? undefined : said);
}

function keyOf({ addon }: Binary, { root, version }: LibtorchFolder): string {
  const stamp = (path: string): string => {
    const { size, mtimeMs } = statSync(path);
    return `${size}@${Math.floor(mtimeMs)}`;
  };
  const library = join(root, "lib/libtorch_cpu.so");
  return [addon, stamp(addon), root, version, stamp(library), `node ${process.versions.node}`].join(" ");
}

function read(file: string): Record<string, string> {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;
  } catch {
    return {};
  }
}

/** A verdict that cannot be kept (a read-only home) is found again next time. */
function keep(file: string, verdicts: Record<string, string>): void {
  try {
    mkdirSync(join(file, ".."), { recursive: true });
    const fresh = `${file}.${process.pid}`;
    writeFileSync(fresh, `${JSON.stringify(verdicts, null, 2)}\n`);
    renameSync(fresh, file);
  } catch {
    return;
  }
}
