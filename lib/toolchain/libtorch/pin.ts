/**
 * The contents of `third_party/libtorch.json`: the versions memformer is written against, those fetched by default, and
 * for each pinned archive its size and SHA-256. PyTorch publishes no checksums, so these are our own.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadError } from "../load-error.ts";

/** An archive whose bytes we know. */
export interface PinnedFile {
  /** What pip calls it. */
  readonly requirement: string;
  /** Its name, on a mirror too. */
  readonly file: string;
  /** Where PyTorch has it; without one it comes through pip or from a mirror. */
  readonly url?: string | undefined;
  readonly bytes: number;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
}

/** All that one LibTorch consists of. */
export interface Pin {
  readonly version: string;
  readonly variant: Variant;
  /** PyTorch's own wheel first, then those of the CUDA libraries that its metadata names. */
  readonly files: readonly PinnedFile[];
}

/** A build of LibTorch: for the CPU, or for a CUDA version (`cu130` is CUDA 13.0). */
export type Variant = "cpu" | `cu${number}`;

export interface Pins {
  /** What `memformer setup` takes of a variant when told no version: `<version>-<variant>`. */
  readonly defaults: Readonly<Record<string, string>>;
  /** First and last supported `major.minor`, both included. */
  readonly supported: { readonly from: string; readonly to: string };
  readonly pins: Readonly<Record<string, Pin>>;
}

/** The variant with CUDA that there is a pin for. */
export function pinnedCuda({ defaults }: Pins): string {
  return Object.keys(defaults).find((name) => name !== "cpu") ?? "";
}

/** Whether `text` names a {@link Variant}. */
export function isVariant(text: string): text is Variant {
  return /^(cpu|cu\d{2,3})$/.test(text);
}

/** The package's folder, the same from `lib/` and from `dist/`. */
export const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));

/**
 * Reads the pins that ship with the package. Throws MemformerError LOAD_FAILED where its code has been taken away from
 * its files.
 */
export function readPins(): Pins {
  const path = `${packageRoot}third_party/libtorch.json`;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Pins;
  } catch (cause) {
    const failed = "memformer's code is not beside its files: a bundler has taken it in.";
    const remedies = [["leave it outside the bundle", 'external: ["memformer"]']] as const;
    throw loadError("LOAD_FAILED", failed, [{ place: path, outcome: (cause as Error).message }], remedies, { cause });
  }
}

/** The version of the package itself. */
export function packageVersion(): string {
  const text = readFileSync(new URL("../../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

/** `2.13` of `2.13.0`: what a binary is compiled for. */
export function minorVersion(version: string): string {
  return version.split(".", 2).join(".");
}

function minorOf(version: string): [number, number] | undefined {
  const match = /^(\d+)\.(\d+)/.exec(version);
  return match === null ? undefined : [Number(match[1]), Number(match[2])];
}

/** Whether a LibTorch of this version can be compiled against. The environment may switch the question off. */
export function isSupported(version: string, { supported }: Pins, env: NodeJS.ProcessEnv): boolean {
  if (env["MEMFORMER_LIBTORCH_SKIP_VERSION_CHECK"] === "1") return true;
  const [found, from, to] = [minorOf(version), minorOf(supported.from), minorOf(supported.to)];
  if (found === undefined || from === undefined || to === undefined) return false;
  const order = (a: [number, number], b: [number, number]): number => a[0] - b[0] || a[1] - b[1];
  return order(found, from) >= 0 && order(found, to) <= 0;
}

/** Throws `ERR_MEMFORMER_LIBTORCH_MISMATCH` unless {@link isSupported}. */
export function requireSupported(version: string, where: string, pins: Pins, env: NodeJS.ProcessEnv): void {
  if (isSupported(version, pins, env)) return;
  const { from, to } = pins.supported;
  const failed = `LibTorch ${version} in ${where} is not supported: memformer ${packageVersion()} needs ${from} to ${to}.`;
  throw loadError(
    "LIBTORCH_MISMATCH",
    failed,
    [],
    [
      ["fetch one that fits", "npx memformer setup"],
      ["or try it all the same", "MEMFORMER_LIBTORCH_SKIP_VERSION_CHECK=1"],
    ],
    { details: { found: version, where, expected: `${from} to ${to}` } },
  );
}
