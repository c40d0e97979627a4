/** Records in the memory of this process: for tests, and for a service that may forget when it ends. */
import { conflict, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";
import { checked, type PageOptions, type UncheckedStore } from "./checked.ts";

/** A store in this process's memory. Bytes are copied on their way in and out. */
export function memoryStore(): SessionStore {
  return checked(new MemoryStore());
}

interface Entry extends StoredRecord {
  /** By `performance.now()`, in ms. */
  expires: number;
}

class MemoryStore implements UncheckedStore {
  readonly #entries = new Map<string, Entry>();
  #writes = 0;

  #live(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.expires > performance.now()) return entry;
    this.#entries.delete(key);
    return undefined;
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    const entry = this.#live(key);
    return entry && { bytes: entry.bytes.slice(), version: entry.version };
  }

  async put(key: string, bytes: Uint8Array, { ifVersion, ttl }: PutOptions): Promise<string> {
    const found = this.#live(key)?.version ?? null;
    if (found !== ifVersion) throw conflict(key, ifVersion, found);
    const version = String(++this.#writes);
    // A Buffer's own slice would not copy.
    this.#entries.set(key, { bytes: Uint8Array.from(bytes), version, expires: inSeconds(ttl) });
    if (this.#writes % 1024 === 0) for (const each of [...this.#entries.keys()]) this.#live(each);
    return version;
  }

  async delete(key: string, ifVersion?: string): Promise<boolean> {
    const found = this.#live(key)?.version;
    if (found !== undefined && ifVersion !== undefined && found !== ifVersion) throw conflict(key, ifVersion, found);
    return this.#entries.delete(key);
  }

  async list(prefix: string, { cursor = "", limit }: PageOptions): Promise<KeyPage> {
    const keys = [...this.#entries.keys()].filter((key) => key.startsWith(prefix) && key > cursor && this.#live(key));
    return pageOf(keys, limit);
  }

  async touch(key: string, ttl: number): Promise<boolean> {
    const entry = this.#live(key);
    if (entry !== undefined) entry.expires = inSeconds(ttl);
    return entry !== undefined;
  }
}

/** The first `limit` of `keys`, which need no order. */
export function pageOf(keys: string[], limit: number): KeyPage {
  const page = keys.sort().slice(0, limit);
  return page.length < keys.length ? { keys: page, cursor: page.at(-1) } : { keys: page };
}

function inSeconds(ttl: number | undefined): number {
  return ttl === undefined ? Infinity : performance.now() + ttl * 1000;
}
