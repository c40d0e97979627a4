/**
 * Finds and loads the addon: LibTorch first, through the tiny loader, then the addon built for it. Nothing else loads a
 * `.node`.
 */
import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { MemformerError } from "../errors.ts";
import type { Addon } from "./addon.ts";
import { findBinary, findLoader, publishedVersions, type Binary } from "./binary.ts";
import { remediesFor } from "./load-remedies.ts";
import type { LibtorchFolder } from "../toolchain/libtorch/libtorch-folder.ts";
import { minorVersion, packageVersion } from "../toolchain/libtorch/pin.ts";
import { resolveLibtorch, type Libtorch } from "../toolchain/libtorch/resolve.ts";
import { demands, readIfAllowed, thisMachine, type Machine } from "./platform.ts";
import { probe } from "./probe.ts";
import { loadError, type Attempt } from "../toolchain/load-error.ts";
import { requireWorkingFolder } from "./working-folder.ts";

const require = createRequire(import.meta.url);

interface Loader {
  /** Opens a library for good, its symbols for all; the reason if that fails. */
  open(path: string): string | undefined;
  /** The newest CUDA version that the driver serves (13000 is 13.0), or why there is none. */
  driver(): number | string;
  /** Sets an environment variable for libraries yet to be opened, unless the user has set it. */
  prefer(name: string, value: string): void;
}

/** In the order of their needs. */
const libraries = {
  cpu: ["libc10.so", "libtorch_cpu.so", "libtorch.so"],
  cuda: ["libc10.so", "libtorch_cpu.so", "libc10_cuda.so", "libtorch_cuda.so", "libtorch.so"],
};

export interface Loaded {
  readonly addon: Addon;
  readonly libtorch: Libtorch;
  /** Holds `memformer.node` and, where it was built, the CUDA half. */
  readonly folder: string;
}

/**
 * Loads the addon. Throws MemformerError: UNSUPPORTED_PLATFORM, IO when the working folder is gone, LIBTORCH_NOT_FOUND,
 * LIBTORCH_MISMATCH, or LOAD_FAILED with what was tried.
 */
export function loadAddon(): Loaded {
  requireMachine(thisMachine());
  requireWorkingFolder();
  const libtorch = findLibtorch();
  const binary = findBinary(libtorch);
  if ("attempts" in binary) throw noBinary(libtorch, binary.attempts);
  requireOnlyOne(binary);
  const reason = binary.local ? undefined : probe(binary, libtorch);
  if (reason !== undefined) throw doesNotLoad(reason, binary, libtorch);
  try {
    openLibtorch(binary.loader, libtorch);
    return { addon: require(binary.addon) as Addon, libtorch, folder: binary.folder };
  } catch (cause) {
    throw doesNotLoad((cause as Error).message, binary, libtorch, cause);
  }
}

/** The first LibTorch there is a binary for; those for CUDA first where there is a driver. */
export function findLibtorch(env: NodeJS.ProcessEnv = process.env): Libtorch {
  return resolveLibtorch({
    env,
    preferCuda: typeof cudaDriver() === "number",
    unfit: (found) =>
      "attempts" in findBinary(found) ? `LibTorch ${found.version}: no binary for it (${binariesThere()})` : undefined,
  });
}

/** The newest CUDA version the driver serves (13000 is 13.0), or the sentence that says why there is none. */
export function cudaDriver(): number | string {
  const path = findLoader();
  if (path === undefined) return "not looked at: memformer's loader is missing";
  try {
    return (require(path) as Loader).driver();
  } catch (error) {
    return `not looked at: ${(error as Error).message}`;
  }
}

/** The version that {@link cudaDriver} counts: 13.0 of 13000. */
export function cudaVersionOf(driver: number): string {
  return `${Math.floor(driver / 1000)}.${Math.floor((driver % 1000) / 10)}`;
}

/** Opens the libraries of a LibTorch for good, in a process of which nothing else is asked; the reason if one fails. */
export function testLoadLibtorch(root: string, variant: LibtorchFolder["variant"]): string | undefined {
  const path = findLoader();
  if (path === undefined) return undefined;
  try {
    openLibtorch(path, { root, variant });
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

function openLibtorch(path: string, { root, variant }: Pick<LibtorchFolder, "root" | "variant">): void {
  const loader = require(path) as Loader;
  // OpenMP's threads wait for work by spinning, which on a busy machine takes the processor from those that have some:
  // a window took ten times as long beside another process. After so many turns they sleep.
  loader.prefer("GOMP_SPINCOUNT", "10000");
  // What cuBLAS needs to give the same bits again; on a Hopper GPU it is what it takes anyway.
  if (variant === "cuda") loader.prefer("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
  for (const library of libraries[variant]) {
    const reason = loader.open(join(root, "lib", library));
    if (reason !== undefined) throw new Error(reason);
  }
}

/** Throws MemformerError UNSUPPORTED_PLATFORM, naming all that `machine` lacks. */
export function requireMachine(machine: Machine): void {
  const lacking = demands(machine).filter(({ ok }) => !ok);
  if (lacking.length === 0) return;
  const attempts = lacking.map(({ name, found, needed }) => ({ place: name, outcome: `${found}: ${needed}` }));
  const failed = `memformer ${packageVersion()} does not run on this machine (${machine.platform}-${machine.arch}).`;
  throw loadError("UNSUPPORTED_PLATFORM", failed, attempts, []);
}

/**
 * Two addons in one process register the same operators twice, which ends it. A second environment of ours (a worker)
 * opens the same file; a second copy of the package another one.
 */
function requireOnlyOne({ addon }: Binary): void {
  const mine = realpathSync(addon);
  const other = [...readIfAllowed("/proc/self/maps").matchAll(/ (\/.*\/memformer\.node)$/gm)]
    .map(([, path]) => path!)
    .find((path) => path !== mine);
  if (other === undefined) return;
  throw loadError(
    "LOAD_FAILED",
    "Another copy of memformer is loaded in this process already.",
    [
      { place: other, outcome: "loaded" },
      { place: mine, outcome: "asked for" },
    ],
    [["let all that use it share one", "npm dedupe memformer; npm ls memformer shows where they are"]],
  );
}

function binariesThere(): string {
  const there = publishedVersions();
  return there.length === 0 ? "this package holds none" : `there are some for ${there.join(", ")}`;
}

function noBinary(libtorch: Libtorch, attempts: readonly Attempt[]): MemformerError {
  const { version, variant, root } = libtorch;
  const failed = `memformer ${packageVersion()} has no binary for LibTorch ${version} (${variant}) on ${process.platform}-${process.arch}.`;
  return loadError(
    "LOAD_FAILED",
    failed,
    [...attempts, { place: root, outcome: `LibTorch ${version}, from ${libtorch.source}` }],
    [
      ...(publishedVersions().length > 0
        ? [["fetch a LibTorch there is one for", "npx memformer setup"] as const]
        : []),
      ["or compile it once for this one", "npx memformer build"],
    ],
    { details: { libtorch: root, version: minorVersion(version) } },
  );
}

function doesNotLoad(reason: string, binary: Binary, libtorch: Libtorch, cause?: unknown): MemformerError {
  const { root, version, variant, source } = libtorch;
  const attempts = [
    { place: binary.addon, outcome: existsSync(binary.addon) ? reason : "does not exist" },
    { place: root, outcome: `LibTorch ${version} (${variant}), ${source}` },
  ];
  const failed = `memformer ${packageVersion()} does not load on ${process.platform}-${process.arch}: ${reason}`;
  return loadError("LOAD_FAILED", failed, attempts, remediesFor(reason, libtorch), {
    cause,
    details: { folder: binary.folder, libtorch: root },
  });
}
