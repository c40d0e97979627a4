/**
 * Which process goes on with a session: a lease on its id, a record `lease.ID` in the store that its owner renews by
 * compare-and-set. Whoever finds it run out takes it over, with a higher fence.
 *
 * A lease only avoids wasted work. What protects a session is its own record's compare-and-set: the new owner writes
 * its fence into that record, so that a former owner that does not know yet (it was paused, or its network was gone)
 * finds another version and is refused. So clocks may be wrong without harm:
 * - an owner holds a lease until `ttl` after it asked for the latest renewal, by its own monotonic clock and its wall
 *   clock both: a process that was stopped, or whose machine slept, knows before it does anything;
 * - another process takes a lease to have run out when its own wall clock is past the end that the owner wrote, or when
 *   it has seen the same version for `ttl` by its monotonic clock. Where its clock is ahead by more than `ttl` it takes
 *   leases too early: the owner's next commit is refused, a turn is computed twice, none is lost. Where it is behind,
 *   it takes them at most a `ttl` after it first asked.
 *
 * A fence is one more than the one before and at least the wall clock's milliseconds: it grows also when the record was
 * forgotten meanwhile.
 */
import { hostname } from "node:os";
import { randomUUID } from "node:crypto";
import { isMemformerError, MemformerError } from "../errors.ts";
import type { SessionStore } from "./store.ts";

/** Of the leases of one process. */
export interface LeaseOptions {
  /** Of this process, in messages to clients. Default: the host's name and the process's id. */
  readonly name?: string | undefined;
  /** Where clients reach this process: others name it to those who ask them. Default: none. */
  readonly url?: string | undefined;
  /** Seconds that a lease lasts without a renewal; it is renewed three times in them. Default 15. */
  readonly ttl?: number | undefined;
  /** Called once for a lease that has gone to another process, or ran out before it was renewed. */
  readonly onLost?: ((id: string) => void) | undefined;
}

/** What this process has of a session. */
export interface Lease {
  /** Grows with every owner. */
  readonly fence: number;
  /** Whether the owner before did not let go of it: what it had not committed is gone. */
  readonly takenOver: boolean;
}

/** What is in a lease's record. */
interface LeaseRecord {
  readonly fence: number;
  /** A process, not a name: two processes of one name do not take each other's for their own. Absent: nobody's. */
  readonly process?: string;
  readonly owner?: string;
  readonly url?: string;
  /** When it runs out, by the owner's wall clock, in ms since 1970. */
  readonly until?: number;
}

interface Held {
  readonly fence: number;
  version: string;
  /** When it was asked for last: `performance.now()` and `Date.now()`. */
  asked: number;
  askedWall: number;
}

/** So long is a record kept that nobody renews, in seconds. */
const KEPT = 24 * 3600;
/** Renewals under way at once. */
const TOGETHER = 32;
/** Compare-and-sets that another process beat, before an acquire gives up. */
const ATTEMPTS = 8;

/** The leases of one process. */
export class Leases {
  readonly #store: SessionStore;
  readonly #name: string;
  readonly #url: string | undefined;
  readonly #ttl: number; // ms
  readonly #onLost: ((id: string) => void) | undefined;
  readonly #process = randomUUID();
  readonly #held = new Map<string, Held>();
  readonly #acquiring = new Map<string, Promise<Lease>>();
  /** Leases of others, as they were seen first: version, and when by `performance.now()`. */
  readonly #seen = new Map<string, { readonly version: string; readonly at: number }>();
  #timer: NodeJS.Timeout | undefined;
  #renewing: Promise<void> | undefined;

  /** Throws MemformerError CONFIG for a `ttl` that is not a number of seconds from 0.1 to 3600. */
  constructor(store: SessionStore, options: LeaseOptions = {}) {
    const { name = `${hostname()}:${process.pid}`, url, ttl = 15, onLost } = options;
    if (typeof ttl !== "number" || !(ttl >= 0.1) || ttl > 3600)
      throw new MemformerError("CONFIG", `ttl: expected seconds from 0.1 to 3600, got ${String(ttl)}`, {
        details: { ttl },
      });
    this.#store = store;
    this.#name = name;
    this.#url = url;
    this.#ttl = ttl * 1000;
    this.#onLost = onLost;
  }

  /**
   * Takes the lease on `id`, or keeps the one that is held.
   *
   * @throws MemformerError `BUSY` while another process holds it, with details `{ id, owner, url, until }`: its name,
   * its URL if it has one, and when the lease runs out unless it is renewed (ms since 1970). `IO` when the store fails.
   */
  async acquire(id: string): Promise<Lease> {
    const held = this.#held.get(id);
    if (held !== undefined && this.held(id)) return { fence: held.fence, takenOver: false };
    const underway = this.#acquiring.get(id) ?? this.#acquire(id).finally(() => this.#acquiring.delete(id));
    this.#acquiring.set(id, underway);
    return underway;
  }

  /** Whether this process owns `id` now, by its own clocks; false from the moment that it may belong to another. */
  held(id: string): boolean {
    const held = this.#held.get(id);
    return held !== undefined && this.#inTime(held);
  }

  /** The fence of a lease that is held; undefined otherwise. */
  fence(id: string): number | undefined {
    return this.held(id) ? this.#held.get(id)!.fence : undefined;
  }

  /** Ids whose leases are held. */
  get ids(): string[] {
    return [...this.#held.keys()].filter((id) => this.held(id));
  }

  /**
   * Lets go of `id`: another process may take it at once. With `forget`, for a session that is no more, its record goes
   * too. Nothing happens to a lease that is not held. Throws IO when the store fails: the lease then runs out by
   * itself.
   */
  async release(id: string, { forget = false }: { readonly forget?: boolean } = {}): Promise<void> {
    const held = this.#held.get(id);
    this.#held.delete(id);
    if (held === undefined) return;
    await this.#renewing; // a renewal on its way would make the version below an old one
    try {
      if (forget) await this.#store.delete(keyOf(id), held.version);
      else await this.#put(id, { fence: held.fence }, held.version);
    } catch (error) {
      if (!isConflict(error)) throw error; // else another has it already
    }
  }

  /** Lets go of all, for a shutdown; those that the store does not take run out by themselves. Never throws. */
  async releaseAll(): Promise<void> {
    await Promise.allSettled(this.#acquiring.values());
    const ids = [...this.#held.keys()];
    await inTurns(ids, async (id) => this.release(id).catch(() => undefined));
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #acquire(id: string): Promise<Lease> {
    this.#drop(id); // one that ran out: it may be had again, as another's
    for (let attempt = 0; ; attempt++) {
      const found = await this.#store.get(keyOf(id)),
        before = found && parse(found.bytes, id);
      if (found !== undefined && before !== undefined) this.#checkFree(id, before, found.version);
      const fence = Math.max((before?.fence ?? 0) + 1, Date.now());
      try {
        const held = { fence, ...now(), version: "" };
        held.version = await this.#put(id, this.#record(held), found?.version ?? null);
        this.#seen.delete(id);
        this.#held.set(id, held);
        this.#start();
        return { fence, takenOver: before?.process !== undefined };
      } catch (error) {
        if (!isConflict(error) || attempt >= ATTEMPTS) throw error;
      }
    }
  }

  /** Throws BUSY for a lease that another process holds. */
  #checkFree(id: string, lease: LeaseRecord, version: string): void {
    const { owner = "another process", url, until = 0 } = lease;
    // Ours, whose renewal was late or whose answer was lost, is to be had again.
    if (lease.process === undefined || lease.process === this.#process || Date.now() >= until) return;
    const seen = this.#seen.get(id);
    if (seen?.version !== version) {
      if (this.#seen.size >= 10_000) this.#seen.clear(); // only costs patience
      this.#seen.set(id, { version, at: performance.now() });
    } else if (performance.now() - seen.at >= this.#ttl) return;
    throw new MemformerError("BUSY", `session ${id} is owned by ${owner}${url === undefined ? "" : `, ${url}`}`, {
      details: { id, owner, url, until },
    });
  }

  #record({ fence, askedWall }: Held): LeaseRecord {
    const url = this.#url === undefined ? {} : { url: this.#url };
    return { fence, process: this.#process, owner: this.#name, ...url, until: askedWall + this.#ttl };
  }

  async #put(id: string, record: LeaseRecord, ifVersion: string | null): Promise<string> {
    return this.#store.put(keyOf(id), Buffer.from(JSON.stringify(record)), { ifVersion, ttl: KEPT });
  }

  #inTime({ asked, askedWall }: Held): boolean {
    return performance.now() - asked < this.#ttl && Date.now() - askedWall < this.#ttl;
  }

  /**
   * Says that a lease is lost, once, and apart from the renewals: what the user's function throws is its own matter.
   */
  #drop(id: string): void {
    if (!this.#held.delete(id)) return;
    queueMicrotask(() => this.#onLost?.(id));
  }

  #start(): void {
    this.#timer ??= setInterval(() => {
      this.#renewing ??= this.#renewAll().finally(() => {
        this.#renewing = undefined;
      });
    }, this.#ttl / 3).unref();
  }

  async #renewAll(): Promise<void> {
    for (const [id, held] of this.#held) if (!this.#inTime(held)) this.#drop(id);
    await inTurns([...this.#held.keys()], async (id) => this.#renew(id));
    if (this.#held.size > 0 || this.#acquiring.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #renew(id: string): Promise<void> {
    const held = this.#held.get(id);
    if (held === undefined) return; // let go of meanwhile
    for (;;) {
      const asked = now();
      try {
        held.version = await this.#put(id, this.#record({ ...held, ...asked }), held.version);
        Object.assign(held, asked);
        return;
      } catch (error) {
        if (!isConflict(error)) return; // the store fails: the next renewal may work, before it runs out
      }
      // The renewal before may have been written, though its answer was lost.
      const found = await this.#store.get(keyOf(id)).catch(() => "unknown" as const);
      if (found === "unknown") return;
      if (found === undefined || found.version === held.version || !this.#isOurs(found.bytes)) {
        if (this.#held.get(id) === held) this.#drop(id);
        return;
      }
      held.version = found.version;
    }
  }

  #isOurs(bytes: Uint8Array): boolean {
    try {
      return parse(bytes, "").process === this.#process;
    } catch {
      return false;
    }
  }
}

function keyOf(id: string): string {
  return `lease.${id}`;
}

function now(): { asked: number; askedWall: number } {
  return { asked: performance.now(), askedWall: Date.now() };
}

function isConflict(error: unknown): boolean {
  return isMemformerError(error) && error.code === "ERR_MEMFORMER_CONFLICT";
}

function parse(bytes: Uint8Array, id: string): LeaseRecord {
  try {
    const record = JSON.parse(Buffer.from(bytes).toString()) as LeaseRecord;
    if (Number.isSafeInteger(record.fence)) return record;
  } catch {
    // said below
  }
  throw new MemformerError("DATA", `the lease of session ${id} is not a record of memformer`, { details: { id } });
}

/** `work` on each of `ids`, so many at once. */
async function inTurns(ids: readonly string[], work: (id: string) => Promise<void>): Promise<void> {
  const left = ids.values();
  const worker = async (): Promise<void> => {
    for (const id of left) await work(id);
  };
  await Promise.all(Array.from({ length: Math.min(TOGETHER, ids.length) }, worker));
}
