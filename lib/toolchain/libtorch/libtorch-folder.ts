/**
 * Recognises a LibTorch on disk. A root holds `lib/libtorch_cpu.so`, `include/torch` and `share/cmake/Torch`; the
 * unpacked wheel (`torch/`, `version.py`) and the official zip (`libtorch/`, `build-version`) both look like that.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Variant } from "./pin.ts";

/** A LibTorch that is whole. */
export interface LibtorchFolder {
  /** Absolute; the folder that holds `lib`, `include` and `share`. */
  readonly root: string;
  /** Without the local part: `2.13.0`, not `2.13.0+cpu`. */
  readonly version: string;
  readonly variant: "cpu" | "cuda";
  /** Of a CUDA build, where its files tell: `13.0`. */
  readonly cuda?: string | undefined;
  /** Whether headers and CMake files are there too; running needs the libraries alone. */
  readonly compilable: boolean;
}

/** Files that running needs. */
const landmark = "lib/libtorch_cpu.so";
/** Files that compiling needs besides those. */
const headers = ["include/torch", "share/cmake/Torch/TorchConfig.cmake"];

/** The LibTorch in `folder`, or in its `torch/` or `libtorch/`; else the sentence that says what is missing. */
export function inspectFolder(folder: string): LibtorchFolder | { readonly missing: string } {
  const base = resolve(folder);
  if (!existsSync(base)) return { missing: "does not exist" };
  const root = [base, join(base, "torch"), join(base, "libtorch")].find((candidate) =>
    existsSync(join(candidate, landmark)),
  );
  if (root === undefined) return { missing: `has no ${landmark}` };
  const version = readVersion(root);
  if (version === undefined) return { missing: "has neither version.py nor build-version to read its version from" };
  const compilable = missingHeader(root) === undefined;
  if (!existsSync(join(root, "lib/libtorch_cuda.so"))) return { root, version, variant: "cpu", compilable };
  return { root, version, variant: "cuda", cuda: readCuda(root), compilable };
}

/** `cpu`, or `cu130` where its files tell the CUDA version, else undefined. */
export function variantName({ variant, cuda }: Pick<LibtorchFolder, "variant" | "cuda">): Variant | undefined {
  if (variant === "cpu") return "cpu";
  return cuda === undefined ? undefined : `cu${Number(cuda.replace(".", ""))}`;
}

/** The first of what compiling needs that `root` has not; undefined where it can be compiled against. */
export function missingHeader(root: string): string | undefined {
  return headers.find((path) => !existsSync(join(root, path)));
}

/** The CUDA version of a LibTorch, from `cuda = '13.0'` in version.py or the local part `+cu130`. */
function readCuda(root: string): string | undefined {
  const read = (file: string): string => (existsSync(join(root, file)) ? readFileSync(join(root, file), "utf8") : "");
  const said = /^cuda\b.*=\s*['"](\d+\.\d+)['"]/m.exec(read("version.py"))?.[1];
  const local = /\+cu(\d+)(\d)\b/.exec(`${read("version.py")} ${read("build-version")}`);
  return said ?? (local === null ? undefined : `${local[1]}.${local[2]}`);
}

/** Reads the version of the LibTorch in `root`, without its local part; undefined where nothing tells it. */
export function readVersion(root: string): string | undefined {
  const sources: [file: string, pattern: RegExp][] = [
    ["version.py", /^__version__\s*=\s*['"]([^'"]+)['"]/m],
    ["build-version", /^\s*(\d\S*)/],
  ];
  for (const [file, pattern] of sources) {
    const path = join(root, file);
    const found = existsSync(path) ? pattern.exec(readFileSync(path, "utf8"))?.[1] : undefined;
    if (found !== undefined) return found.split("+")[0];
  }
  return undefined;
}
