/**
 * Ranks that train together. Every wait of a group ends: with what it waited for, or with MemformerError DISTRIBUTED,
 * which names the rank that is gone.
 */
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { MemformerError } from "../errors.ts";
import { Tensor } from "../engine/tensor.ts";
import { threadBound } from "../engine/thread-bound.ts";
import type { GroupHandle, NativePulses } from "../native/addon.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import type { HeldPart } from "../model/recurrence.ts";
import type { Device } from "../native/cuda.ts";
import { firstDifference } from "./difference.ts";
import type { Membership } from "./membership.ts";
import { rankName, readWords, type Words } from "./words.ts";

const FOREVER = 1e9; // seconds: a wait in which only the others' silence counts
const BEATS = 10; // signs of life in the time after which a rank counts as gone
const SUSPICIOUS = 4; // so many missed signs are enough once a reduction has failed
const GLANCE = 200; // milliseconds between two looks at the others

/** A process' membership among the ranks; {@link join} makes it. */
export class Group implements AsyncDisposable {
  readonly rank: number;
  readonly world: number;
  /** This process' number among those of its host. */
  readonly localRank: number;
  readonly device: Device;
  /** @internal */
  readonly threadBound = threadBound;
  /** The step of training that failures are told with. */
  step = 0;
  readonly #membership: Membership;
  readonly #handle: GroupHandle;
  readonly #watch: NodeJS.Timeout;
  readonly #keys = new Map<string, number>();
  readonly #ended: Promise<never>;
  #reject!: (failure: MemformerError) => void;
  #words: Words;
  #collective: string | undefined;
  #suspicious = false;
  #failure: MemformerError | undefined;
  #left = false;

  private constructor(membership: Membership & { readonly device: Device }, words: Words, handle: GroupHandle) {
    const { rank, world, localRank, device } = membership;
    [this.rank, this.world, this.localRank, this.device] = [rank, world, localRank, device];
    this.#membership = membership;
    this.#words = words;
    this.#handle = handle;
    this.#ended = new Promise((_, reject) => {
      this.#reject = reject;
    });
    this.#ended.catch(() => undefined); // whoever waits hears of it; nobody may be waiting
    this.#watch = setInterval(() => {
      this.#look();
    }, GLANCE);
    this.#watch.unref();
  }

  /** @internal Meets the others. */
  static async open(membership: Membership & { readonly device: Device }): Promise<Group> {
    const { rank, world, address: host, port, prefix, hostsStore, device, startLimit, limit, silence } = membership;
    const words: Words = { host: hostname(), pid: process.pid };
    try {
      const period = silence / BEATS;
      const handle = await waited((addon) =>
        addon.joinGroup({
          ...{ rank, world, host, port, prefix, hostsStore, device, startLimit, limit, period },
          says: JSON.stringify(words),
        }),
      );
      return new Group(membership, words, handle);
    } catch (error) {
      throw withDetails(error, { rank, step: 0, collective: "joining" });
    }
  }

  /** @internal The engine's end of it. */
  get handle(): GroupHandle {
    return this.#handle;
  }

  /** Why the group has ended; undefined while all is well. */
  get failure(): MemformerError | undefined {
    return this.#failure;
  }

  /** The sum of a tensor over all ranks, on the group's device. All ranks call it. */
  allReduce(tensor: Tensor): Tensor {
    return new Tensor(guarded((addon) => addon.allReduce(nextCall(), this.#handle, tensor.handle))[0]!);
  }

  /** Rank `root`'s tensor, on every rank; the others give one of the same shape and dtype. */
  broadcast(tensor: Tensor, root = 0): Tensor {
    if (!Number.isInteger(root) || root < 0 || root >= this.world)
      throw new MemformerError("CONFIG", `root must be a rank below ${this.world}, got ${root}`);
    return new Tensor(guarded((addon) => addon.broadcast(nextCall(), this.#handle, tensor.handle, root))[0]!);
  }

  /** @internal (total, ...) of all ranks' rows (rows, ...), this rank's from `first` on; to the bit. */
  gatherRows(tensor: Tensor, first: number, total: number): Tensor {
    return new Tensor(guarded((addon) => addon.gatherRows(nextCall(), this.#handle, tensor.handle, first, total))[0]!);
  }

  /** @internal Sums the parameters' gradients over the ranks, `extras` (K) along. The norm () is of the sum. */
  reduceGradients(held: readonly HeldPart[], extras: Tensor): { extras: Tensor; norm: Tensor } {
    const models = held.map(({ handle }) => handle);
    const [sums, norm] = guarded((addon) => addon.reduceGradients(nextCall(), this.#handle, models, extras.handle));
    return { extras: new Tensor(sums!), norm: new Tensor(norm!) };
  }

  /**
   * What `work` resolves with, unless a rank fails meanwhile. A reduction that failed is told with the name of the rank
   * that is gone.
   */
  async guard<T>(collective: string, work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    const outer = this.#collective;
    this.#collective = collective;
    try {
      return await Promise.race([work, this.#ended]);
    } catch (error) {
      throw this.#isOwn(error) ? await this.#verdict(error as MemformerError) : error;
    } finally {
      this.#collective = outer;
    }
  }

  /** Resolves once all ranks have called it, however long that takes, with the same `name`. */
  async barrier(name: string): Promise<void> {
    const key = this.#key(`barrier/${name}`);
    await this.guard(
      name,
      (async () => {
        const come = await this.#ask((addon) => addon.groupAdd(this.#handle, key, 1));
        if (come === this.world) await this.#ask((addon) => addon.groupSet(this.#handle, `${key}/all`, ""));
        await this.#get(`${key}/all`);
      })(),
    );
  }

  /** What rank 0 gives, on every rank; the others wait for it however long it takes. Plain JSON. */
  async share<Value>(name: string, value?: Value): Promise<Value> {
    const key = this.#key(`share/${name}`);
    return this.guard(
      name,
      (async () => {
        if (this.rank === 0)
          await this.#ask((addon) => addon.groupSet(this.#handle, key, JSON.stringify(value ?? null)));
        return JSON.parse(await this.#get(key)) as Value;
      })(),
    );
  }

  /** What each rank gives, in their order. Plain JSON. */
  async gather<Value>(name: string, value: Value): Promise<Value[]> {
    const key = this.#key(`gather/${name}`);
    return this.guard(
      name,
      (async () => {
        await this.#ask((addon) => addon.groupSet(this.#handle, `${key}/${this.rank}`, JSON.stringify(value ?? null)));
        const values: Value[] = [];
        for (let rank = 0; rank < this.world; rank++)
          values.push(JSON.parse(await this.#get(`${key}/${rank}`)) as Value);
        return values;
      })(),
    );
  }

  /**
   * Throws MemformerError DISTRIBUTED on every rank unless `value`, plain JSON, is the same on all: it names the rank
   * that differs from rank 0, and in what.
   */
  async agree(name: string, value: unknown): Promise<void> {
    const [first, ...others] = await this.gather(name, value);
    for (const [i, other] of others.entries()) {
      const found = firstDifference(other, first);
      if (found === undefined) continue;
      const where = found.path === "" ? name : `${name}: ${found.path}`;
      throw this.#end(
        `rank ${i + 1} differs from rank 0 in ${where} (${shown(found.one)}, rank 0 has ${shown(found.other)})`,
        i + 1,
      );
    }
  }

  /**
   * Tells the others that this rank ends by `error`, and returns what it is to be told with: `error`, or where it only
   * followed from another rank's end, that.
   */
  async fail(error: unknown): Promise<unknown> {
    if (this.#left) return error;
    const { message, details } =
      error instanceof MemformerError ? error : { message: String(error), details: undefined };
    const peer = this.#isOwn(error) ? details?.["peer"] : this.rank,
      isFollowing = this.#isOwn(error) && peer === undefined;
    if (isFollowing) await this.#verdict(error as MemformerError);
    else if (this.#failure === undefined)
      this.#say({ failed: { message, ...(peer !== this.rank && { peer: peer as number }) } });
    await this.#delivered();
    const failure = this.#failure;
    this.#close(message);
    return isFollowing ? failure : error;
  }

  /** Waits until all ranks are done, and leaves; rank 0, where the store is, goes last. Idempotent. */
  async leave(): Promise<void> {
    if (this.#left) return;
    if (this.#failure === undefined) {
      this.#say({ left: true });
      await this.#delivered();
      for (const end = performance.now() + 1000 * this.#membership.silence; this.rank === 0; await sleep(GLANCE / 4)) {
        const { ranks } = this.#pulses();
        if (performance.now() > end || ranks.every(({ says }) => hasEnded(readWords(says)))) break;
      }
    }
    this.#close("this rank has left the group");
  }

  /** For `await using`: as `leave`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.leave();
  }

  /** One key per call of a name: all ranks make the same calls in the same order. */
  #key(name: string): string {
    const count = (this.#keys.get(name) ?? 0) + 1;
    this.#keys.set(name, count);
    return `${name}/${count}`;
  }

  async #get(key: string): Promise<string> {
    return (await this.#ask((addon) => addon.groupGet(this.#handle, key, FOREVER)))!;
  }

  async #ask<T>(call: Parameters<typeof waited<T>>[0]): Promise<T> {
    this.#refuseEnded();
    return waited(call);
  }

  #refuseEnded(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#left) throw new MemformerError("DISPOSED", "this rank has left its group");
  }

  #say(words: Partial<Words>): void {
    this.#words = { ...this.#words, ...words };
    guarded((addon) => {
      addon.groupSay(this.#handle, JSON.stringify(this.#words));
    });
  }

  #pulses(): NativePulses {
    return guarded((addon) => addon.groupPulses(this.#handle));
  }

  /**
   * Waits until what this rank said has reached the store, and, on the store's host, the others have had time to read
   * it.
   */
  async #delivered(): Promise<void> {
    const { hostsStore, silence } = this.#membership,
      period = (1000 * silence) / BEATS,
      end = performance.now() + 3 * period;
    const said = JSON.stringify(this.#words);
    while (performance.now() < end) {
      const { ranks, storeFailure } = this.#pulses();
      if (storeFailure !== "") return;
      if (ranks[this.rank]?.says === said) {
        if (!hostsStore || this.#words.failed === undefined) return;
        if (ranks.every(({ says }) => hasEnded(readWords(says)))) return;
      }
      await sleep(GLANCE / 4);
    }
  }

  /** Looks whether somebody has failed or fallen silent. */
  #look(): void {
    if (this.#left || this.#failure !== undefined) return;
    const { ranks, storeAge, storeFailure } = this.#pulses();
    const { silence, address, port, launcherStore } = this.#membership;
    const patience = this.#suspicious ? (SUSPICIOUS * silence) / BEATS : silence;
    for (const [rank, { says }] of ranks.entries()) {
      const failed = rank === this.rank ? undefined : readWords(says)?.failed;
      if (failed === undefined) continue;
      if (failed.peer === undefined)
        this.#end(`${rankName(rank, readWords(says))} has failed: ${failed.message}`, rank);
      else this.#end(failed.message, failed.peer);
      return;
    }
    if (storeFailure !== "" || storeAge > patience) {
      const host = launcherStore
        ? `the launcher's store at ${address}:${port}`
        : rankName(0, readWords(ranks[0]?.says ?? ""));
      const how = storeFailure !== "" ? "has gone" : `has given no sign of life for ${Math.round(storeAge)} s`;
      this.#end(`${host} ${how}`, launcherStore ? undefined : 0);
      return;
    }
    for (const [rank, { age, says }] of ranks.entries()) {
      const words = readWords(says);
      if (rank === this.rank || (words?.left !== true && age - storeAge <= patience)) continue;
      if (words?.left === true) {
        if (!this.#suspicious) continue; // it is done, and so may all be
        this.#end(`${rankName(rank, words)} has left the others`, rank);
        return;
      }
      this.#end(`${rankName(rank, words)} has given no sign of life for ${Math.round(age)} s`, rank);
      return;
    }
  }

  /** What a reduction failed by: the others' silence names the rank that is gone, if one is. */
  async #verdict(error: MemformerError): Promise<MemformerError> {
    if (this.#failure !== undefined) return this.#failure;
    this.#suspicious = true;
    const { silence } = this.#membership;
    for (const end = performance.now() + 1000 * silence; performance.now() < end; await sleep(GLANCE / 2)) {
      if (this.#failure !== undefined) return this.#failure;
      this.#look();
    }
    return this.#end(error.message, undefined);
  }

  #isOwn(error: unknown): boolean {
    return error instanceof MemformerError && error.code === "ERR_MEMFORMER_DISTRIBUTED";
  }

  /** Ends the group: whatever waits for another rank fails by this, here and, once they hear of it, there. */
  #end(sentence: string, peer: number | undefined): MemformerError {
    if (this.#failure !== undefined) return this.#failure;
    const { rank, step } = this,
      collective = this.#collective ?? "training";
    this.#failure = new MemformerError(
      "DISTRIBUTED",
      `${sentence}; rank ${rank} of ${this.world} was at step ${step}, in ${collective}`,
      { details: { rank, peer, step, collective } },
    );
    this.#say({ failed: { message: sentence, peer: peer ?? rank } });
    guarded((addon) => {
      addon.groupAbort(this.#handle, sentence);
    });
    this.#reject(this.#failure);
    return this.#failure;
  }

  #close(reason: string): void {
    if (this.#left) return;
    this.#left = true;
    clearInterval(this.#watch);
    if (this.#failure !== undefined || this.#words.failed !== undefined)
      guarded((addon) => {
        addon.groupAbort(this.#handle, reason);
      });
    guarded((addon) => {
      addon.groupLeave(this.#handle);
    });
  }
}

function hasEnded(words: Words | undefined): boolean {
  return words?.left === true || words?.failed !== undefined;
}

function shown(value: unknown): string {
  return value === undefined ? "none" : typeof value === "string" ? value : JSON.stringify(value);
}

function withDetails(error: unknown, details: Record<string, unknown>): unknown {
  if (!(error instanceof MemformerError) || error.code !== "ERR_MEMFORMER_DISTRIBUTED") return error;
  return new MemformerError("DISTRIBUTED", error.message, { details, cause: error });
}
