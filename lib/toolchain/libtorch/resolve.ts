/**
 * Finds LibTorch without fetching anything: `MEMFORMER_LIBTORCH`, the cache, the optional platform package, the system.
 * Every place is recorded with the reason it was passed over, for the error message and for `memformer doctor`.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { MemformerError } from "../../errors.ts";
import { loadError, type Attempt } from "../load-error.ts";
import { cachedNames, cacheFolder, readRecord } from "./cache.ts";
import { inspectFolder, variantName, type LibtorchFolder } from "./libtorch-folder.ts";
import { isSupported, isVariant, packageVersion, pinnedCuda, readPins, requireSupported, type Pins } from "./pin.ts";

/** A LibTorch to load, and where it is {@link LibtorchFolder.compilable} to compile against. */
export interface Libtorch extends LibtorchFolder {
  /** Which of the places it came from, in words. */
  readonly source: string;
  readonly attempts: readonly Attempt[];
}

export interface ResolveOptions {
  /** A folder, or `python`; overrides `MEMFORMER_LIBTORCH`. */
  readonly libtorch?: string | undefined;
  /**
   * Take only this variant: `cpu`, `cuda`, or a CUDA version such as `cu130`. Default `MEMFORMER_VARIANT`, else the
   * first hit of any.
   */
  readonly variant?: string | undefined;
  /** In the cache, look first for a LibTorch with CUDA: where there is a driver. Default false. */
  readonly preferCuda?: boolean | undefined;
  /** The sentence that rules a LibTorch out, or undefined. One that was named is not ruled out so. Default: none is. */
  readonly unfit?: ((found: LibtorchFolder) => string | undefined) | undefined;
  /** Default `process.env`. */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** Where a system-wide LibTorch may be. Default: `/opt/libtorch`, `/usr/local/libtorch`, `/usr/local`, `/usr`. */
  readonly systemFolders?: readonly string[] | undefined;
}

const platformPackage = "@memformer/libtorch-cpu-linux-x64";

/**
 * Finds a LibTorch; synchronous and quick, starts Python only for the word `python`.
 *
 * @throws MemformerError `LIBTORCH_NOT_FOUND` with `details.attempts`; `LIBTORCH_MISMATCH` when the LibTorch that was
 * named is of a version outside the supported ones; `CONFIG` for a variant that is none.
 */
export function resolveLibtorch(given: ResolveOptions = {}): Libtorch {
  const env = given.env ?? process.env;
  const options = { ...given, variant: given.variant ?? (env["MEMFORMER_VARIANT"] || undefined) };
  requireVariant(options.variant);
  const pins = readPins();
  const attempts: Attempt[] = [];
  const named = options.libtorch ?? (env["MEMFORMER_LIBTORCH"] || undefined);
  if (named !== undefined) return resolveNamed(named, options, env, pins);
  attempts.push({ place: "MEMFORMER_LIBTORCH", outcome: "not set" });
  for (const [place, source, folder] of places(options, env, pins, attempts)) {
    const found = inspectFolder(folder);
    const reason = "missing" in found ? found.missing : (unfit(found, options, env, pins) ?? options.unfit?.(found));
    attempts.push({ place, outcome: reason ?? "found" });
    if (!("missing" in found) && reason === undefined) return { ...found, source, attempts };
  }
  throw notFound(attempts, options.variant);
}

function requireVariant(variant: string | undefined): void {
  if (variant === undefined || variant === "cuda" || isVariant(variant)) return;
  const message = `MEMFORMER_VARIANT: expected "cpu", "cuda" or a CUDA version such as "cu130", got "${variant}"`;
  throw new MemformerError("CONFIG", message, { details: { variant } });
}

/** Somebody chose: either it fits or it is an error, never something else in silence. */
function resolveNamed(named: string, options: ResolveOptions, env: NodeJS.ProcessEnv, pins: Pins): Libtorch {
  const source = options.libtorch === undefined ? `MEMFORMER_LIBTORCH=${named}` : `libtorch: ${named}`;
  const asked = named === "python" ? askPython(env) : { folder: named };
  const found = "missing" in asked ? asked : inspectFolder(asked.folder);
  if ("missing" in found) throw notFound([{ place: source, outcome: found.missing }], options.variant);
  requireSupported(found.version, found.root, pins, env);
  const reason = unfit(found, options, env, pins);
  if (reason !== undefined) throw notFound([{ place: source, outcome: reason }], options.variant);
  return { ...found, source, attempts: [{ place: source, outcome: "found" }] };
}

function unfit(
  found: LibtorchFolder,
  { variant }: ResolveOptions,
  env: NodeJS.ProcessEnv,
  pins: Pins,
): string | undefined {
  const kinds: string[] = [found.variant, variantName(found) ?? found.variant];
  if (variant !== undefined && !kinds.includes(variant)) return `LibTorch ${found.version} for ${kinds.at(-1)}`;
  if (isSupported(found.version, pins, env)) return undefined;
  return `LibTorch ${found.version} is not among ${pins.supported.from} to ${pins.supported.to}`;
}

/** The folders to look into, in order. What rules a place out before looking goes straight to `attempts`. */
function* places(
  { systemFolders, preferCuda = false }: ResolveOptions,
  env: NodeJS.ProcessEnv,
  pins: Pins,
  attempts: Attempt[],
): Generator<[place: string, source: string, folder: string]> {
  const cache = cacheFolder(env);
  const names = cachedNames(cache, pins, preferCuda);
  if (names.length === 0) attempts.push({ place: cache, outcome: "does not exist" });
  for (const name of names) {
    const folder = join(cache, name);
    if (readRecord(folder) !== undefined) yield [folder, "cache", folder];
    else attempts.push({ place: folder, outcome: "not fetched, or not to the end" });
  }
  try {
    const manifest = createRequire(import.meta.url).resolve(`${platformPackage}/package.json`);
    yield [platformPackage, platformPackage, dirname(manifest)];
  } catch {
    attempts.push({ place: platformPackage, outcome: "not installed" });
  }
  const system = systemFolders ?? ["/opt/libtorch", "/usr/local/libtorch", "/usr/local", "/usr"];
  for (const folder of system) yield [folder, "system", folder];
}

/** Asks Python where its torch is; does not import it, which would take seconds. */
function askPython(env: NodeJS.ProcessEnv): { folder: string } | { missing: string } {
  const program =
    "import importlib.util as u, os; s = u.find_spec('torch'); " +
    "print(os.path.dirname(s.origin) if s and s.origin else '')";
  const run = spawnSync("python3", ["-c", program], { env, encoding: "utf8", timeout: 20_000 });
  if (run.error !== undefined) return { missing: `python3 cannot be started (${run.error.message})` };
  if (run.status !== 0) return { missing: `python3 failed: ${run.stderr.trim().split("\n").at(-1) ?? ""}` };
  const folder = run.stdout.trim();
  return folder === "" ? { missing: "python3 has no module torch" } : { folder };
}

function notFound(attempts: readonly Attempt[], variant: string | undefined): MemformerError {
  const kind = variant === undefined ? "" : `${variant} `;
  const target = `${process.platform}-${process.arch}`;
  const asked =
    variant === undefined || variant === "cpu"
      ? ""
      : ` --variant ${variant === "cuda" ? pinnedCuda(readPins()) : variant}`;
  return loadError(
    "LIBTORCH_NOT_FOUND",
    `memformer ${packageVersion()} found no ${kind}LibTorch for ${target}.`,
    attempts,
    [
      ["fetch it once", `npx memformer setup${asked}`],
      ["or use a Python install", "MEMFORMER_LIBTORCH=python"],
      ["or name a folder", "MEMFORMER_LIBTORCH=/path/to/libtorch"],
      ...(asked === "" ? [] : [["or run on the CPU", 'device: "cpu", and no MEMFORMER_VARIANT'] as const]),
    ],
    { details: { variant: variant ?? "any", target } },
  );
}
