/**
 * A session's memory as one may watch it: a row per segment that reached it, the latest of them, in bounded memory.
 * Segments are looked at one after the other beside the session, which does not wait; where it is faster than the view,
 * the oldest are given up.
 */
import { MemformerError } from "../errors.ts";
import type { SegmentReached } from "../generate/memory-watcher.ts";
import type { Session } from "../generate/session.ts";
import { HeldStates, look, notObservable, writtenFrom } from "./memory-look.ts";
import { memoryPage, rowBytesOf, type MemoryPage, type Row, type Waited } from "./memory-page.ts";
import { Changes } from "./memory-wait.ts";
import type { Memformer } from "../model/memformer.ts";
import { rowBytes } from "../model/state.ts";
import { TokenTexts } from "./memory-texts.ts";

/** Limits of a {@link MemoryView}. */
export interface MemoryViewOptions {
  /** Segments that are kept, the latest. Default 256. */
  readonly segments?: number;
  /** Bytes that they may take, with the states of those not looked at yet. Default 64 MiB. */
  readonly bytes?: number;
  /** Slots that are kept of what a token reads. Default 16. */
  readonly slotsPerToken?: number;
}

/** A segment that is to be looked at. */
interface Due {
  readonly row: Row;
  readonly segment: SegmentReached["segment"];
  readonly states: HeldStates;
}

/** What slots did, a row per segment. Free it with `using` or `dispose()`; the session stays as it is. */
export class MemoryView implements Disposable {
  /** Why there is nothing to see of this model; undefined: there is. */
  readonly unavailable: string | undefined;
  readonly #limits: Required<MemoryViewOptions>;
  readonly #rows: Row[] = [];
  readonly #due: Due[] = []; // the oldest first
  readonly #changes = new Changes();
  readonly #texts: TokenTexts;
  #model: Memformer;
  #leave: (() => void) | undefined;
  #running: Promise<void> | undefined;
  #dropped = 0;
  #revision = 0;
  #bytes = 0;
  #disposed = false;

  /** Watches `session` from now on. Throws MemformerError CONFIG for limits that are not whole numbers above 0. */
  constructor(session: Session, options: MemoryViewOptions = {}) {
    const { segments = 256, bytes = 64 * 2 ** 20, slotsPerToken = 16 } = options;
    this.#limits = { segments, bytes, slotsPerToken };
    for (const [name, value] of Object.entries(this.#limits))
      if (!Number.isSafeInteger(value) || value < 1)
        throw new MemformerError("CONFIG", `${name}: expected a whole number of at least 1, got ${value}`);
    this.unavailable = notObservable(session.model);
    this.#texts = new TokenTexts(session.tokenizer);
    this.#model = session.model as Memformer;
    this.attach(session);
  }

  /** Goes on with the same document in another session: one that was saved and restored, say. */
  attach(session: Session): void {
    this.#leave?.();
    if (this.unavailable !== undefined || this.#disposed) return;
    this.#model = session.model as Memformer;
    this.#texts.tokenizer = session.tokenizer;
    this.takenBack(session.position - session.pending); // it may stand before what was seen
    this.#leave = session.watch({
      reached: (segment) => this.#reached(segment),
      takenBack: (position) => this.takenBack(position),
    });
  }

  /** Bytes of the history, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Segments as JSON, from number `since` on, `limit` (64) at most; see {@link MemoryPage}. */
  page({ since = 0, limit = 64 }: { readonly since?: number; readonly limit?: number } = {}): MemoryPage {
    if (this.unavailable !== undefined) return { available: false, reason: this.unavailable };
    const { memorySlots, constantSlots, segmentLength } = this.#model.config;
    return memoryPage(
      this.#rows,
      { since, limit },
      {
        memorySlots,
        constantSlots,
        segmentLength,
        revision: this.#revision,
        dropped: this.#dropped,
        behind: this.#due.length,
        bytes: this.#bytes,
      },
    );
  }

  /**
   * Resolves as soon as there is a segment from number `since` on, or another revision than `revision`; after `seconds`
   * in any case, and when the signal aborts.
   */
  async changed({ since = 0, revision = this.#revision, seconds, signal }: Waited): Promise<void> {
    const there = (): boolean =>
      this.#disposed || this.unavailable !== undefined || this.#revision !== revision || this.#lookedAt(since);
    await this.#changes.until(there, { seconds, signal });
  }

  /** Waits until every segment so far has been looked at. */
  async settled(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  /** The document goes on from here. */
  takenBack(position: number): void {
    const stays = this.#rows.findIndex(({ reached }) => reached > position);
    if (stays < 0) return;
    for (const row of this.#rows.splice(stays)) this.#forget(row);
    this.#texts.restart();
    this.#revision += 1;
    this.#changes.wake();
  }

  /** Ends watching, and frees what is held. Idempotent. */
  dispose(): void {
    this.#disposed = true;
    this.#leave?.();
    this.#leave = undefined;
    for (const row of this.#rows.splice(0)) this.#forget(row);
    this.#changes.wake();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #lookedAt(since: number): boolean {
    const last = this.#rows.findLast(({ look: seen, error }) => seen !== undefined || error !== undefined);
    return last !== undefined && last.segment >= since;
  }

  #reached(reached: SegmentReached): void {
    const model = this.#model,
      { tokens, start } = writtenFrom(model, reached),
      { segmentLength } = model.config;
    const end = reached.segment.first && tokens.length < segmentLength ? start : start + tokens.length;
    const texts = this.#texts.of(tokens, { start, end, before: reached.segment });
    const row: Row = {
      segment: Math.round(reached.position / segmentLength),
      start,
      end,
      reached: reached.position + segmentLength,
      texts,
      look: undefined,
    };
    const states = new HeldStates(reached, rowBytes(model.stateLayout));
    this.#rows.push(row);
    this.#due.push({ row, segment: reached.segment, states });
    this.#bytes += states.bytes + rowBytesOf(row);
    this.#trim();
    this.#running ??= this.#run();
  }

  /** Looks at what is due, one after the other. */
  async #run(): Promise<void> {
    await Promise.resolve(); // the session's call goes on first
    for (let due = this.#due[0]; due !== undefined; due = this.#due[0]) {
      const { row, segment, states } = due;
      try {
        const seen = await look(this.#model, segment, states, row.texts.length, this.#limits.slotsPerToken);
        if (this.#due[0] === due) row.look = seen;
      } catch (error) {
        row.error = error instanceof Error ? error.message : String(error);
      }
      if (this.#due[0] !== due) continue; // it was given up meanwhile
      this.#due.shift();
      states[Symbol.dispose]();
      this.#bytes += rowBytesOf(row) - states.bytes - rowBytesOf({ ...row, look: undefined });
      this.#trim();
      this.#changes.wake();
    }
    this.#running = undefined;
  }

  #trim(): void {
    const { segments, bytes } = this.#limits;
    while (this.#rows.length > segments || (this.#bytes > bytes && this.#rows.length > 1)) {
      this.#forget(this.#rows.shift()!);
      this.#dropped += 1;
    }
  }

  #forget(row: Row): void {
    this.#bytes -= rowBytesOf(row);
    const at = this.#due.findIndex((due) => due.row === row);
    if (at < 0) return;
    const [{ states }] = this.#due.splice(at, 1) as [Due];
    this.#bytes -= states.bytes;
    states[Symbol.dispose]();
  }
}
