/**
 * Recognises a LibTorch on disk. A root holds `lib/libtorch_cpu.so`, `include/torch` and `share/cmake/Torch`; the
 * unpacked wheel (`torch/`, `version.py`) and the official zip (`libtorch/`, `build-version`) both look like that.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

/** A LibTorch that is whole. */
export interface LibtorchFolder {
  /** Absolute; the folder that holds `lib`, `include` and `share`. */
  readonly root: string;
  /** Without the local part: `2.13.0`, not `2.13.0+cpu`. */
  readonly version: string;
  readonly variant: "cpu" | "cuda";
}

const landmarks = ["lib/libtorch_cpu.so", "include/torch", "share/cmake/Torch/TorchConfig.cmake"];

/** The LibTorch in `folder`, or in its `torch/` or `libtorch/`; else the sentence that says what is missing. */
export function inspectFolder(folder: string): LibtorchFolder | { readonly missing: string } {
  const base = resolve(folder);
  if (!existsSync(base)) return { missing: "does not exist" };
  const root = [base, join(base, "torch"), join(base, "libtorch")].find((candidate) =>
    existsSync(join(candidate, "lib/libtorch_cpu.so")),
  );
  if (root === undefined) return { missing: "has no lib/libtorch_cpu.so" };
  const absent = landmarks.find((path) => !existsSync(join(root, path)));
  if (absent !== undefined) return { missing: `has no ${absent}` };
  const version = readVersion(root);
  if (version === undefined) return { missing: "has neither version.py nor build-version to read its version from" };
  return { root, version, variant: existsSync(join(root, "lib/libtorch_cuda.so")) ? "cuda" : "cpu" };
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
