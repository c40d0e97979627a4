/**
 * Finds LibTorch without fetching anything: `MEMFORMER_LIBTORCH`, the cache, the optional platform package, the system.
 * Every place is recorded with the reason it was passed over, for the error message and for `memformer doctor`.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { MemformerError } from "../../errors.ts";
import { cachedNames, cacheFolder, readRecord } from "./cache.ts";
import { inspectFolder, type LibtorchFolder } from "./layout.ts";
import { isSupported, packageVersion, readPins, requireSupported, type Pins } from "./pin.ts";

/** One place that was looked at. */
export interface Attempt {
  readonly place: string;
  /** Why it was not taken, or `found`. */
  readonly outcome: string;
}

/** A LibTorch to compile against and to load. */
export interface Libtorch extends LibtorchFolder {
  /** Which of the places it came from, in words. */
  readonly source: string;
  readonly attempts: readonly Attempt[];
}

export interface ResolveOptions {
  /** A folder, or `python`; overrides `MEMFORMER_LIBTORCH`. */
  readonly libtorch?: string | undefined;
  /** Take only this variant. Default: the first hit of any. */
  readonly variant?: "cpu" | "cuda" | undefined;
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
 * named is of a version outside the supported ones.
 */
export function resolveLibtorch(options: ResolveOptions = {}): Libtorch {
  const env = options.env ?? process.env;
  const pins = readPins();
  const attempts: Attempt[] = [];
  const named = options.libtorch ?? (env["MEMFORMER_LIBTORCH"] || undefined);
  if (named !== undefined) return resolveNamed(named, options, env, pins);
  attempts.push({ place: "MEMFORMER_LIBTORCH", outcome: "not set" });
  for (const [place, source, folder] of places(options, env, pins, attempts)) {
    const found = inspectFolder(folder);
    const reason = "missing" in found ? found.missing : unfit(found, options, env, pins);
    attempts.push({ place, outcome: reason ?? "found" });
    if (!("missing" in found) && reason === undefined) return { ...found, source, attempts };
  }
  throw notFound(attempts, options.variant);
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
  found: LibtorchFolder, { variant }: ResolveOptions, env: NodeJS.ProcessEnv, pins: Pins,
): string | undefined {
  if (variant !== undefined && found.variant !== variant) return `LibTorch ${found.version} for ${found.variant}`;
  if (isSupported(found.version, pins, env)) return undefined;
  return `LibTorch ${found.version} is not among ${pins.supported.from} to ${pins.supported.to}`;
}

/** The folders to look into, in order. What rules a place out before looking goes straight to `attempts`. */
function* places(
  { systemFolders }: ResolveOptions, env: NodeJS.ProcessEnv, pins: Pins, attempts: Attempt[],
): Generator<[place: string, source: string, folder: string]> {
  const cache = cacheFolder(env);
  const names = cachedNames(cache, pins.default);
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
  const width = Math.max(...attempts.map(({ place }) => place.length));
  const seen = attempts.map(({ place, outcome }, index) => {
    return `${index === 0 ? "  looked at  " : "             "}${place.padEnd(width)}  ${outcome}`;
  });
  const kind = variant === undefined ? "" : `${variant} `;
  const target = `${process.platform}-${process.arch}`;
  const message = [
    `memformer ${packageVersion()} found no ${kind}LibTorch for ${target}.`,
    ...seen,
    ...(variant === "cuda" ? [] : ["  1. fetch it once:           npx memformer setup"]),
    `  ${variant === "cuda" ? 1 : 2}. or use a Python install: MEMFORMER_LIBTORCH=python`,
    `  ${variant === "cuda" ? 2 : 3}. or name a folder:        MEMFORMER_LIBTORCH=/path/to/libtorch`,
    "  more: npx memformer doctor",
  ].join("\n");
  const details = { attempts, variant: variant ?? "any", target };
  return new MemformerError("LIBTORCH_NOT_FOUND", message, { details });
}
