/**
 * What a service keeps its sessions in: five methods over bytes with versions. Every write is a compare-and-set, so
 * that of two processes that go on from the same session one is told, and no turn is lost.
 */
import { MemformerError } from "../errors.ts";

/** What a store holds under a key. */
export interface StoredRecord {
  readonly bytes: Uint8Array;
  /** Opaque; a new one with every `put`. */
  readonly version: string;
}

/** Of a `put`. After a `put` that failed with IO the record may be the old one or the new one: read it again. */
export interface PutOptions {
  /** The version that is to be replaced; null: there must be none. */
  readonly ifVersion: string | null;
  /** Seconds after which the record may be forgotten. Default: never. */
  readonly ttl?: number | undefined;
}

/** A page of keys. */
export interface KeyPage {
  readonly keys: readonly string[];
  /** Where the next page begins; undefined: this was the last. */
  readonly cursor?: string | undefined;
}

/**
 * Keys are 1 to 128 characters of A-Z, a-z, 0-9, `_`, `-` and `.`, the first no dot; a store may rely on it. A promise
 * that resolves means that the write is durable, as far as the store can know.
 */
export interface SessionStore {
  /** The record, or undefined. */
  get(key: string): Promise<StoredRecord | undefined>;
  /** Writes all of it or nothing; the new version. Throws MemformerError CONFLICT where `ifVersion` does not hold. */
  put(key: string, bytes: Uint8Array, options: PutOptions): Promise<string>;
  /** Whether there was one. With `ifVersion`: throws MemformerError CONFLICT where another version is there. */
  delete(key: string, ifVersion?: string): Promise<boolean>;
  /** Keys that begin with `prefix`, in their order; at most `limit` (default 1000). */
  list(prefix: string, options?: { readonly cursor?: string; readonly limit?: number }): Promise<KeyPage>;
  /** Sets the seconds that a record has left, without writing it anew. Whether there is one. */
  touch(key: string, ttl: number): Promise<boolean>;
}

const KEY = /^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$/;

/** Whether a store takes it as a key. */
export function isKey(key: unknown): key is string {
  return typeof key === "string" && KEY.test(key);
}

/** Throws MemformerError CONFIG for what no store takes as a key. */
export function checkKey(key: string): void {
  if (isKey(key)) return;
  throw new MemformerError(
    "CONFIG",
    `key ${JSON.stringify(key)}: expected 1 to 128 of A-Z, a-z, 0-9, "_", "-", ".", the first no dot`,
    { details: { key } },
  );
}

/** The error of a compare-and-set that did not hold. `found`: the version that is there, null for none. */
export function conflict(key: string, expected: string | null, found: string | null): MemformerError {
  const name = (version: string | null): string => (version === null ? "none" : `version ${version}`);
  return new MemformerError("CONFLICT", `record ${key}: expected ${name(expected)}, found ${name(found)}`, {
    details: { key, expected, found },
  });
}
