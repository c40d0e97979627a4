/**
 * What a session holds of the document it is in: the memory in the model's precision, the segment before and the one
 * under way. Tokens may be pushed ahead of what has been committed, and taken back to there, across segments too.
 */
import { PADDING } from "../data/segment.ts";
import { MemformerError } from "../errors.ts";
import { typedArray } from "../engine/tensor.ts";
import { rowBytes, type State } from "../model/state.ts";
import { Watchers, type MemoryWatcher } from "./memory-watcher.ts";
import type { SessionModel } from "./session-model.ts";
import { freeState, storedLayout, storedState, uploadedState, type HostPart } from "./stored-state.ts";

/** A place in a document: everything that goes on from it. */
interface Snapshot {
  readonly state: State;
  readonly previous: Int32Array | undefined;
  readonly current: readonly number[];
  readonly position: number;
}

export class DocumentState implements Disposable {
  readonly #model: SessionModel;
  #state: State | undefined; // undefined while it is in host memory
  #host: readonly HostPart[] | undefined;
  #previous: Int32Array | undefined;
  #current: number[] = [];
  #position = 0;
  #committed = 0;
  readonly #ended: Snapshot[] = []; // segments with tokens that are not committed, the oldest first
  #disposed = false;
  #watchers: Watchers | undefined; // made by the first

  constructor(model: SessionModel) {
    this.#model = model;
    this.#state = storedState(this.#model, model.initialState(1));
  }

  /** Tokens of the whole document so far. */
  get position(): number {
    return this.#position;
  }

  /** Tokens of the segment under way, shorter than T but between {@link push} and {@link advance}. */
  get current(): readonly number[] {
    return this.#current;
  }

  /** The segment before, whole; undefined at the start of a document. */
  get previous(): Int32Array | undefined {
    return this.#previous;
  }

  /** The last tokens, at most two segments of them. */
  get context(): number[] {
    return [...(this.#previous ?? []), ...this.#current];
  }

  /** Whether the segment under way is complete: it has to end before the next token. */
  get complete(): boolean {
    return this.#current.length === this.#model.config.segmentLength;
  }

  /** Bytes of the memory and of the tokens held. */
  get bytes(): number {
    return rowBytes(storedLayout(this.#model)) + 4 * ((this.#previous?.length ?? 0) + this.#current.length);
  }

  /** Whether the memory is in the engine's hands, and not in host memory. */
  get resident(): boolean {
    return this.#state !== undefined;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  push(token: number): void {
    this.#current.push(token);
    this.#position += 1;
  }

  /**
   * Ends the segment under way, which is complete; `next`: the state after it, which is the document's from now on, and
   * with `asStored` in the dtypes it keeps.
   */
  advance(next: State, { asStored = false } = {}): void {
    const start = this.#position - this.#current.length,
      before = this.#resident(),
      after = asStored ? next : storedState(this.#model, next);
    this.#watchers?.reached({ segment: this.segment, position: start, before, after });
    if (this.#committed < this.#position) {
      this.#ended.push({ state: before, previous: this.#previous, current: this.#current, position: start });
    } else freeState(before);
    this.#state = after;
    this.#previous = Int32Array.from(this.#current);
    this.#current = [];
  }

  /** Whether nobody wants to see the states between segments, and none is under way. */
  get takesWholeSegments(): boolean {
    return (this.#watchers?.count ?? 0) === 0 && this.#current.length === 0;
  }

  /** Goes on by whole segments, which are committed; `next` as of {@link advance}. */
  advanceBy(tokens: Int32Array, next: State, { asStored = false } = {}): void {
    const after = asStored ? next : storedState(this.#model, next);
    freeState(this.#resident());
    this.#state = after;
    this.#previous = tokens.slice(-this.#model.config.segmentLength);
    this.#position += tokens.length;
    this.commit();
  }

  /** The first `position` tokens of the document stay; {@link rollback} returns to there. Default: all. */
  commit(position = this.#position): void {
    this.#committed = position;
    const { segmentLength } = this.#model.config;
    while (this.#ended.length > 0 && this.#ended[0]!.position + segmentLength <= position)
      freeState(this.#ended.shift()!.state);
  }

  /** Takes back the tokens that are not committed; returns whether there were any. */
  rollback(): boolean {
    if (this.#position === this.#committed) return false;
    let start = this.#position - this.#current.length;
    const reached = start;
    while (start > this.#committed) {
      const segment = this.#ended.pop()!;
      this.#become(segment);
      start = segment.position;
    }
    if (start < reached) this.#watchers?.takenBack(start);
    this.#current = this.#current.slice(0, this.#committed - start);
    this.#position = this.#committed;
    return true;
  }

  /** This place, to {@link returnTo}; dispose of it with {@link drop}. */
  snapshot(): Snapshot {
    const { previous, current, position } = this;
    return { state: this.#resident().map((tensor) => tensor.detach()), previous, current: [...current], position };
  }

  /** Goes back to a snapshot, which is used up. */
  returnTo(snapshot: Snapshot): void {
    const reached = this.#position - this.#current.length;
    for (const { state } of this.#ended.splice(0)) freeState(state);
    this.#become(snapshot);
    this.#position = this.#committed = snapshot.position;
    const start = snapshot.position - this.#current.length;
    if (start < reached) this.#watchers?.takenBack(start);
  }

  /** Frees a snapshot that is not wanted any more. */
  drop(snapshot: Snapshot): void {
    freeState(snapshot.state);
  }

  /** The segment under way: what came before as source, itself as target; and whether it is the document's first. */
  get segment(): { source: Int32Array; target: Int32Array; first: boolean } {
    const { segmentLength: T, bos } = this.#model.config;
    const target = new Int32Array(T).fill(PADDING);
    target.set(this.#current);
    const source = this.#previous ?? new Int32Array(T).fill(PADDING).fill(bos, 0, 1);
    return { source, target, first: this.#previous === undefined };
  }

  /** The state as kept: see {@link storedLayout}. The tensors stay the document's. */
  get state(): State {
    return this.#resident();
  }

  /** The state's numbers, in the order of the layout. */
  async read(): Promise<readonly HostPart[]> {
    if (this.#host !== undefined) return this.#host;
    const read = await Promise.all(this.#resident().map(async (tensor) => tensor.read()));
    return read.map(({ dtype, shape, data }) => ({ dtype, shape, data: typedArray(dtype, data) }));
  }

  /** Resolves once the state is there; rejects with the error of the call that should have made it. */
  async settled(): Promise<void> {
    if (this.#host !== undefined) return;
    await Promise.all(this.#resident().map(async (tensor) => tensor.settled()));
  }

  /** Moves the memory to host memory; it comes back with the next call that needs it. */
  async offload(): Promise<void> {
    if (this.#state === undefined) return;
    const moved = this.#state,
      host = await this.read();
    if (this.#state !== moved || this.#disposed) return; // it has gone on meanwhile
    this.#host = host;
    this.#state = undefined;
    freeState(moved);
  }

  /** Another place in another document; the numbers are copied to the engine. */
  load(parts: readonly HostPart[], place: Omit<Snapshot, "state">): void {
    this.returnTo({ ...place, state: storedState(this.#model, uploadedState(this.#model, parts)) });
  }

  /** The start of a document. */
  reset(): void {
    const state = storedState(this.#model, this.#model.initialState(1));
    this.returnTo({ state, previous: undefined, current: [], position: 0 });
  }

  /** Tells `watcher` of every segment from now on; returns what ends that. */
  watch(watcher: MemoryWatcher): () => void {
    return (this.#watchers ??= new Watchers()).add(watcher);
  }

  /** A second one at the same place, which nobody watches. */
  clone(): DocumentState {
    const copy = new DocumentState(this.#model);
    copy.returnTo(this.snapshot());
    return copy;
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const { state } of this.#ended.splice(0)) freeState(state);
    if (this.#state !== undefined) freeState(this.#state);
    this.#host = undefined;
  }

  #become({ state, previous, current }: Snapshot): void {
    if (this.#state !== undefined) freeState(this.#state);
    this.#host = undefined;
    this.#state = state;
    this.#previous = previous;
    this.#current = [...current];
  }

  #resident(): State {
    if (this.#disposed) throw new MemformerError("DISPOSED", "this session has been disposed of");
    if (this.#state === undefined) {
      this.#state = uploadedState(this.#model, this.#host!);
      this.#host = undefined;
    }
    return this.#state;
  }
}
