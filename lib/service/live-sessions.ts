/**
 * The sessions that this process holds, each as its store has it: loaded when a call needs it, committed by
 * compare-and-set, dropped when it has been idle or when a commit fails. One call at a time has a session.
 */
import { isMemformerError, type MemformerError } from "../errors.ts";
import type { Session } from "../generate/session.ts";
import type { Ownership } from "./ownership.ts";
import { packRecord, unpackRecord, withResult, type RecordHeader, type StoredResult } from "./record.ts";
import { ServiceError } from "./service-error.ts";
import type { SessionStore } from "./store.ts";

/** A session in memory that equals what its store holds, unless its call is under way. */
export interface Live {
  readonly key: string;
  readonly session: Session;
  header: RecordHeader;
  version: string;
}

export interface LiveOptions {
  readonly store: SessionStore;
  readonly ownership: Ownership;
  /** A session of saved bytes. */
  readonly restore: (bytes: Uint8Array) => Promise<Session>;
  /** Sessions without a call that are kept in memory; the longest unused goes. */
  readonly limit: number;
  /** Milliseconds until a session without a call goes. */
  readonly idleAfter: number;
  /** Seconds that the store keeps a session after its last commit. */
  readonly ttl: number | undefined;
}

const attempts = 5; // to load a session that others write

export class LiveSessions {
  readonly #options: LiveOptions;
  readonly #live = new Map<string, Live & { used: number }>(); // the longest unused first
  readonly #claimed = new Map<string, Promise<void>>();
  readonly #leaving = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LiveOptions) {
    this.#options = options;
  }

  /** Stores a new session, and says what there is to say of it. Throws MemformerError CONFLICT where there is one. */
  async create<T>(key: string, session: Session, describe: (live: Live) => T): Promise<T> {
    const { store, ttl } = this.#options;
    return this.claim(key, async () => {
      try {
        const { fence } = await this.#own(key);
        const now = Date.now(),
          header = { created: now, updated: now, fence, results: [] };
        const version = await store.put(key, packRecord(header, await session.save()), { ifVersion: null, ttl });
        const live = { key, session, header, version, used: performance.now() };
        this.#live.set(key, live);
        return describe(live);
      } catch (error) {
        session.dispose();
        throw error;
      }
    });
  }

  /** Runs `work` with nobody else at this key. Throws ServiceError busy while another call has it. */
  async claim<T>(key: string, work: () => Promise<T>): Promise<T> {
    if (this.#claimed.has(key)) throw new ServiceError("busy", "another call of this session is under way");
    let free = (): void => undefined;
    this.#claimed.set(key, new Promise((resolve) => (free = resolve)));
    try {
      return await work();
    } finally {
      const live = this.#live.get(key);
      if (live === undefined)
        await this.#release(key); // what is not in memory is not owned
      else {
        live.used = performance.now();
        this.#live.delete(key);
        this.#live.set(key, live);
      }
      this.#claimed.delete(key);
      this.#tidy();
      free();
    }
  }

  /** As `claim`, once the call that has it is over. */
  async claimNext<T>(key: string, work: () => Promise<T>): Promise<T> {
    for (let held = this.#claimed.get(key); held !== undefined; held = this.#claimed.get(key)) await held;
    return this.claim(key, work);
  }

  /** Runs `work` with the session. Throws ServiceError busy, not_found, owned_elsewhere, invalid_session. */
  async use<T>(key: string, work: (live: Live) => Promise<T>): Promise<T> {
    return this.claim(key, async () => work(await this.#load(key)));
  }

  /** The session if this process has it in memory, also while a call has it. */
  peek(key: string): Live | undefined {
    return this.#live.get(key);
  }

  /** Whether a call has it. */
  claimed(key: string): boolean {
    return this.#claimed.has(key);
  }

  /**
   * Makes what the session is now what its store holds, with the answer of a call that may come twice. When that fails
   * the session is what the store holds: this copy is dropped. Throws MemformerError CONFLICT where another process
   * wrote it, IO; ServiceError owned_elsewhere where this one is not its owner any more.
   */
  async commit(live: Live, result?: StoredResult): Promise<void> {
    const { store, ownership, ttl } = this.#options,
      { key, session, header, version } = live;
    try {
      const results = result === undefined ? header.results : withResult(header.results, result);
      const next = { ...header, updated: Date.now(), results };
      const bytes = packRecord(next, await session.save());
      if (!ownership.held(key))
        throw new ServiceError("owned_elsewhere", "another process took this session over; this turn is not committed");
      live.version = await store.put(key, bytes, { ifVersion: version, ttl });
      live.header = next;
    } catch (error) {
      this.#drop(live);
      throw error;
    }
  }

  /** Deletes it here and in the store, in a claim of its key. Whether there was one. */
  async delete(key: string): Promise<boolean> {
    const { store, ownership } = this.#options;
    await this.#own(key);
    const live = this.#live.get(key);
    if (live !== undefined) this.#drop(live);
    const existed = await store.delete(key);
    await ownership.release(key, { forget: true });
    return existed;
  }

  /** Every session in memory. */
  get all(): Iterable<Live> {
    return this.#live.values();
  }

  /** Drops all of them and lets go of what this process owns. Their calls are over. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    for (const live of [...this.#live.values()]) {
      this.#live.delete(live.key);
      live.session.dispose();
    }
    await Promise.all(this.#leaving);
    await this.#options.ownership.releaseAll();
  }

  async #own(key: string): ReturnType<Ownership["acquire"]> {
    try {
      return await this.#options.ownership.acquire(key);
    } catch (error) {
      if (!isMemformerError(error) || error.code !== "ERR_MEMFORMER_BUSY") throw error;
      const { url, owner } = ((error as MemformerError).details ?? {}) as { url?: string; owner?: string };
      throw new ServiceError("owned_elsewhere", `process ${owner ?? "?"} has this session; send the call there`, {
        owner: url ?? owner,
        cause: error,
      });
    }
  }

  async #load(key: string): Promise<Live> {
    const held = this.#live.get(key);
    if (held !== undefined && this.#options.ownership.held(key)) return held;
    if (held !== undefined) this.#drop(held); // another may have written meanwhile
    const { fence, takenOver } = await this.#own(key);
    return takenOver ? this.#takeOver(key, fence) : this.#fetch(key);
  }

  /** Writes before anything else, so that from here on a write of the owner before is refused. */
  async #takeOver(key: string, fence: number): Promise<Live> {
    for (let attempt = 1; ; attempt++) {
      const live = await this.#fetch(key);
      live.header = { ...live.header, fence: Math.max(fence, live.header.fence + 1) };
      try {
        await this.commit(live);
        return live;
      } catch (error) {
        const late = isMemformerError(error) && error.code === "ERR_MEMFORMER_CONFLICT"; // its last write was first
        if (!late || attempt === attempts) throw error;
      }
    }
  }

  async #fetch(key: string): Promise<Live> {
    const stored = await this.#options.store.get(key);
    if (stored === undefined) throw new ServiceError("not_found", "there is no such session");
    const { header, session: bytes } = unpackRecord(stored.bytes);
    const session = await this.#options.restore(bytes);
    const live = { key, session, header, version: stored.version, used: performance.now() };
    this.#live.set(key, live);
    return live;
  }

  /** Lets go of it; where that fails, the lease runs out by itself. */
  async #release(key: string): Promise<void> {
    await this.#options.ownership.release(key).catch(() => undefined);
  }

  #drop(live: Live): void {
    if (this.#live.get(live.key)?.session === live.session) this.#live.delete(live.key);
    live.session.dispose();
  }

  /** Lets sessions go that are idle, or too many. */
  #tidy(): void {
    const { limit, idleAfter } = this.#options,
      now = performance.now();
    for (const live of [...this.#live.values()]) {
      if (this.#claimed.has(live.key)) continue;
      if (this.#live.size <= limit && now - live.used < idleAfter) continue;
      this.#drop(live);
      const leaving = this.#release(live.key);
      this.#leaving.add(leaving);
      void leaving.then(() => this.#leaving.delete(leaving));
    }
    if (this.#timer !== undefined || this.#live.size === 0 || idleAfter === Infinity) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#tidy();
      },
      Math.max(100, idleAfter),
    );
    this.#timer.unref();
  }
}
