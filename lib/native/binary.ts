/**
 * Which binary is loaded for a LibTorch: one compiled here (`out/`), else the published one for LibTorch's minor
 * version (`variants/torch-2.13/`). A binary fits any patch release of the version it was compiled for, on the CPU and
 * with CUDA.
 */
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { buildFolder, readBuild } from "../toolchain/build.ts";
import type { LibtorchFolder } from "../toolchain/libtorch/libtorch-folder.ts";
import { minorVersion, packageRoot } from "../toolchain/libtorch/pin.ts";
import type { Attempt } from "../toolchain/load-error.ts";

/** An addon on disk, to be loaded into the LibTorch it was compiled for. */
export interface Binary {
  /** Of `memformer.node` and, where there is one, `libmemformer_cuda.so`. */
  readonly folder: string;
  readonly addon: string;
  /** Opens LibTorch. */
  readonly loader: string;
  /** Whether it was compiled on this machine. */
  readonly local: boolean;
}

interface NodeGypBuild {
  /** The path of the fitting addon below `folder`; throws if there is none. */
  resolve(folder: string): string;
}

/** Where the published binaries are, and the loader they share. */
const published = join(packageRoot, "variants");
const publishedLoader = join(packageRoot, "prebuilds", `${process.platform}-${process.arch}`, "loader.node");

/** The LibTorch versions there are published binaries for: `["2.13", "2.14"]`. */
export function publishedVersions(): string[] {
  if (!existsSync(published)) return [];
  const versions = readdirSync(published)
    .map((name) => /^torch-(\d+\.\d+)$/.exec(name)?.[1])
    .filter((version) => version !== undefined);
  return versions.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}

/** The binary for `libtorch`, or what was looked at. */
export function findBinary(
  libtorch: Pick<LibtorchFolder, "version" | "variant">,
): Binary | { readonly attempts: Attempt[] } {
  const local = buildFolder(libtorch.variant),
    addon = join(local, "memformer.node");
  const reason = localReason(local, libtorch.version);
  if (reason === undefined) return { folder: local, addon, loader: join(local, "loader.node"), local: true };
  const variant = join(published, `torch-${minorVersion(libtorch.version)}`);
  const prebuilt = resolvePrebuilt(variant);
  if (prebuilt !== undefined && existsSync(publishedLoader)) {
    return { folder: dirname(prebuilt), addon: prebuilt, loader: publishedLoader, local: false };
  }
  const there = publishedVersions();
  const outcome =
    prebuilt !== undefined
      ? `there without its loader, ${publishedLoader}`
      : there.length === 0
        ? "this package holds no binaries"
        : `not among those published: for LibTorch ${there.join(", ")}`;
  return {
    attempts: [
      { place: local, outcome: reason },
      { place: variant, outcome },
    ],
  };
}

/** A loader of any binary: it knows nothing of LibTorch's version. */
export function findLoader(): string | undefined {
  const local = (["cpu", "cuda"] as const).map((variant) => join(buildFolder(variant), "loader.node"));
  return [...local, publishedLoader].find((path) => existsSync(path));
}

/** Why the build in `folder` does not fit; undefined if it does. */
function localReason(folder: string, version: string): string | undefined {
  const record = readBuild(folder);
  if (record === undefined || !existsSync(join(folder, "memformer.node"))) return "not compiled here";
  const built = record.libtorch.version;
  return minorVersion(built) === minorVersion(version) ? undefined : `compiled for LibTorch ${built}`;
}

/** The addon in a folder of prebuilds that fits this platform. */
function resolvePrebuilt(folder: string): string | undefined {
  const gyp = createRequire(import.meta.url)("node-gyp-build") as NodeGypBuild;
  try {
    return gyp.resolve(folder);
  } catch {
    return undefined;
  }
}
