/** Finds and loads the addon: LibTorch first, through the tiny loader, then the addon built for it. Nothing else loads a `.node`. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { MemformerError } from "../errors.ts";
import type { Addon } from "./addon.ts";
import { buildFolder } from "./build.ts";
import { packageRoot } from "./libtorch/pin.ts";
import { resolveLibtorch, type Libtorch } from "./libtorch/resolve.ts";

interface Loader {
  /** Opens a library for good, its symbols for all; the reason if that fails. */
  open(path: string): string | undefined;
  /** Sets an environment variable for libraries yet to be opened, unless the user has set it. */
  prefer(name: string, value: string): void;
}

/** In the order of their needs. */
const libraries = {
  cpu: ["libc10.so", "libtorch_cpu.so", "libtorch.so"],
  cuda: ["libc10.so", "libtorch_cpu.so", "libc10_cuda.so", "libtorch_cuda.so", "libtorch.so"],
};

/**
 * Loads the addon. Throws MemformerError: UNSUPPORTED_PLATFORM, LIBTORCH_NOT_FOUND, LIBTORCH_MISMATCH, or LOAD_FAILED with what
 * was tried.
 */
export function loadAddon(): { addon: Addon; libtorch: Libtorch; folder: string } {
  if (process.platform !== "linux") {
    throw new MemformerError("UNSUPPORTED_PLATFORM", `memformer runs on Linux; this is ${process.platform}-${process.arch}.`);
  }
  const libtorch = resolveLibtorch();
  const folders = addonFolders(libtorch.variant);
  const folder = folders.find((candidate) => existsSync(join(candidate, "memformer.node")));
  if (folder === undefined) {
    throw new MemformerError("LOAD_FAILED",
      `memformer's native addon is not there for ${process.platform}-${process.arch} (${libtorch.variant}).\n` +
      `  looked in  ${folders.join("\n             ")}\n  1. compile it once:   npx memformer build\n  more: npx memformer doctor`,
      { details: { folders } });
  }
  const load = createRequire(import.meta.url);
  try {
    const loader = load(join(folder, "loader.node")) as Loader;
    // OpenMP's threads wait for work by spinning, which on a busy machine takes the processor from those that have some: a
    // window took ten times as long beside another process. After so many turns they sleep.
    loader.prefer("GOMP_SPINCOUNT", "10000");
    // What cuBLAS needs to give the same bits again; on a Hopper GPU it is what it takes anyway.
    if (libtorch.variant === "cuda") loader.prefer("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    for (const library of libraries[libtorch.variant]) {
      const path = join(libtorch.root, "lib", library);
      const reason = loader.open(path);
      if (reason !== undefined) throw new Error(reason);
    }
    return { addon: load(join(folder, "memformer.node")) as Addon, libtorch, folder };
  } catch (cause) {
    throw new MemformerError("LOAD_FAILED",
      `memformer's native addon does not load: ${(cause as Error).message}\n  addon     ${folder}\n` +
      `  libtorch  ${libtorch.root} (${libtorch.version}, ${libtorch.variant}, ${libtorch.source})\n` +
      "  1. compile it against this LibTorch:   npx memformer build\n  more: npx memformer doctor",
      { cause, details: { folder, libtorch: libtorch.root } });
  }
}

/** A local build first, then the published binary. */
function addonFolders(variant: string): string[] {
  return [buildFolder(variant), join(packageRoot, "variants", variant, "prebuilds", `${process.platform}-${process.arch}`)];
}
