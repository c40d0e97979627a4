/** Where fetched LibTorches live: `${XDG_CACHE_HOME:-~/.cache}/memformer/libtorch/<version>-<variant>/`. */
import { readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";

/** Written into a cached LibTorch as the last file; without it the folder counts as unfinished. */
export interface CacheRecord {
  readonly version: string;
  readonly variant: string;
  /** The URL, `pip: <file>` or `file: <path>` it came from. */
  readonly source: string;
  /** Of the archive. */
  readonly sha256: string;
  /** Whether `sha256` is the one we pinned. */
  readonly pinned: boolean;
  /** ISO 8601. */
  readonly date: string;
}

/** Name of the record inside the folder. */
export const recordName = "memformer.json";

/** The folder of all cached LibTorches. A relative `XDG_CACHE_HOME` is ignored, as its specification asks. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const base = env["XDG_CACHE_HOME"];
  return join(base !== undefined && isAbsolute(base) ? base : join(homedir(), ".cache"), "memformer", "libtorch");
}

/** The record of a cached LibTorch, or undefined if the folder is absent, unfinished or not ours. */
export function readRecord(folder: string): CacheRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, recordName), "utf8")) as CacheRecord;
  } catch {
    return undefined;
  }
}

/** Names of the folders in the cache: `preferred` first, then newest first. */
export function cachedNames(cache: string, preferred: string): string[] {
  let names: string[];
  try {
    names = readdirSync(cache).filter((name) => /^\d+\.\d+/.test(name));
  } catch {
    return [];
  }
  names.sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  return [...new Set([preferred, ...names])];
}
