/** The checks that every store makes of its arguments, in one place; what passes is handed to the store behind. */
import { MemformerError } from "../../errors.ts";
import { checkKey, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";

/** Keys are below this: the first character after "z" bounds the keys that begin with a prefix. */
export const AFTER_KEYS = "{";

/** What a store behind {@link checked} gets: `limit` is always there. */
export interface PageOptions {
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** A store whose arguments have been checked. */
export interface UncheckedStore {
  get(key: string): Promise<StoredRecord | undefined>;
  put(key: string, bytes: Uint8Array, options: PutOptions): Promise<string>;
  delete(key: string, ifVersion?: string): Promise<boolean>;
  list(prefix: string, page: PageOptions): Promise<KeyPage>;
  touch(key: string, ttl: number): Promise<boolean>;
}

/**
 * `store` with checks before it: each method throws MemformerError CONFIG for an argument that is not what it expects.
 */
export function checked(store: UncheckedStore): SessionStore {
  return {
    async get(key) {
      checkKey(key);
      return store.get(key);
    },
    async put(key, bytes, options) {
      checkKey(key);
      if (!(bytes instanceof Uint8Array)) fail(`record ${key}: expected a Uint8Array, got ${typeof bytes}`, { key });
      const { ifVersion, ttl } = options;
      if (ifVersion !== null) checkVersion(ifVersion);
      if (ttl !== undefined) checkTtl(ttl);
      return store.put(key, bytes, { ifVersion, ttl });
    },
    async delete(key, ifVersion) {
      checkKey(key);
      if (ifVersion !== undefined) checkVersion(ifVersion);
      return store.delete(key, ifVersion);
    },
    async list(prefix, { cursor, limit = 1000 } = {}) {
      if (prefix !== "") checkKey(prefix);
      if (cursor !== undefined) checkKey(cursor);
      if (!Number.isInteger(limit) || limit < 1 || limit > 1000)
        fail(`limit: expected an integer from 1 to 1000, got ${String(limit)}`, { limit });
      return store.list(prefix, { cursor, limit });
    },
    async touch(key, ttl) {
      checkKey(key);
      checkTtl(ttl);
      return store.touch(key, ttl);
    },
  };
}

/** A hundred years: more is a mistake, and beyond what some stores can add to now. */
const LONGEST = 100 * 365 * 24 * 3600;

function checkTtl(ttl: number): void {
  if (typeof ttl !== "number" || !(ttl > 0) || ttl > LONGEST)
    fail(`ttl: expected seconds, above 0 and at most ${LONGEST}, got ${String(ttl)}`, { ttl });
}

function checkVersion(version: string): void {
  if (typeof version !== "string" || version === "")
    fail(`ifVersion: expected a version that this store gave, got ${JSON.stringify(version)}`, { ifVersion: version });
}

function fail(message: string, details: Record<string, unknown>): never {
  throw new MemformerError("CONFIG", message, { details });
}
