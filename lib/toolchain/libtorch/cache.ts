/** Where fetched LibTorches live: `${XDG_CACHE_HOME:-~/.cache}/memformer/libtorch/<version>-<variant>/`. */
import { readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { Pins, Variant } from "./pin.ts";

/** Where one archive came from. */
export interface Provenance {
  /** The URL, `pip: <file>` or `file: <path>`. */
  readonly source: string;
  readonly sha256: string;
  /** Whether `sha256` is the one we pinned. */
  readonly pinned: boolean;
}

/**
 * Written into a cached LibTorch as the last file; without it the folder counts as unfinished. Its own fields are of
 * PyTorch's archive.
 */
export interface CacheRecord extends Provenance {
  readonly version: string;
  readonly variant: Variant;
  /** The archives of the CUDA libraries. */
  readonly libraries?: readonly Provenance[] | undefined;
  /** ISO 8601. */
  readonly date: string;
}

/** Name of the record inside the folder. */
export const recordName = "memformer.json";

/** The folder of all that memformer keeps. A relative `XDG_CACHE_HOME` is ignored, as its specification asks. */
export function userCache(env: NodeJS.ProcessEnv = process.env): string {
  const base = env["XDG_CACHE_HOME"];
  return join(base !== undefined && isAbsolute(base) ? base : join(homedir(), ".cache"), "memformer");
}

/** The folder of all cached LibTorches. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return join(userCache(env), "libtorch");
}

/** The record of a cached LibTorch, or undefined if the folder is absent, unfinished or not ours. */
export function readRecord(folder: string): CacheRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, recordName), "utf8")) as CacheRecord;
  } catch {
    return undefined;
  }
}

/**
 * Names of the folders to look into: those for CUDA first where there is a driver for them, else those for the CPU;
 * among these the pinned one, then newest first.
 */
export function cachedNames(cache: string, { defaults }: Pins, preferCuda: boolean): string[] {
  let names: string[] = [];
  try {
    names = readdirSync(cache).filter((name) => /^\d+\.\d+[^-]*-c\w+$/.test(name));
  } catch {
    return [];
  }
  const pinned = Object.values(defaults).filter((name) => name === defaults["cpu"] || names.includes(name));
  names.sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  const all = [...new Set([...pinned, ...names])];
  const wanted = (name: string): boolean => name.endsWith("-cpu") !== preferCuda;
  return [...all.filter(wanted), ...all.filter((name) => !wanted(name))];
}
