/**
 * What a session holds of the document it is in: the memory in the model's precision, the segment before and the one
 * under way. Tokens may be pushed ahead of what has been committed, and taken back to there, across segments too.
 */
import { PADDING } from "../data/segment.ts";
import { MemformerError } from "../errors.ts";
import { applyOperator, placed, Tensor, typedArray, type DType, type NumberArray } from "../engine/tensor.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import { rowBytes, type State, type StatePart } from "../model/state.ts";
import type { SessionModel } from "./session-model.ts";

/** A part of a state in host memory, of one row. */
export interface HostPart {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: NumberArray;
}

/** A place in a document: everything that goes on from it. */
interface Snapshot {
  readonly state: State;
  readonly previous: Int32Array | undefined;
  readonly current: readonly number[];
  readonly position: number;
}

/** The segment under way as the model sees it, and the state it starts from. Free it with `using`. */
export interface OpenedSegment extends Disposable {
  readonly segment: SegmentTensors;
  readonly state: State;
}

/** A state's parts as a session keeps them: floats in the precision that the model computes in, where that is less. */
export function storedLayout({ stateLayout, config }: Pick<SessionModel, "stateLayout" | "config">): StatePart[] {
  const { precision } = config;
  const narrow = precision === "bfloat16" || precision === "float16" ? precision : undefined;
  return stateLayout.map((part) =>
    narrow !== undefined && part.dtype === "float32" ? { ...part, dtype: narrow } : part,
  );
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

  constructor(model: SessionModel) {
    this.#model = model;
    this.#state = this.#stored(model.initialState(1));
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

  /** Ends the segment under way, which is complete; `next`: the state after it, which is the document's from now on. */
  advance(next: State): void {
    const start = this.#position - this.#current.length,
      before = this.#resident();
    if (this.#committed < this.#position) {
      this.#ended.push({ state: before, previous: this.#previous, current: this.#current, position: start });
    } else free(before);
    this.#state = this.#stored(next);
    this.#previous = Int32Array.from(this.#current);
    this.#current = [];
  }

  /** The first `position` tokens of the document stay; {@link rollback} returns to there. Default: all. */
  commit(position = this.#position): void {
    this.#committed = position;
    const { segmentLength } = this.#model.config;
    while (this.#ended.length > 0 && this.#ended[0]!.position + segmentLength <= position)
      free(this.#ended.shift()!.state);
  }

  /** Takes back the tokens that are not committed; returns whether there were any. */
  rollback(): boolean {
    if (this.#position === this.#committed) return false;
    let start = this.#position - this.#current.length;
    while (start > this.#committed) {
      const segment = this.#ended.pop()!;
      this.#become(segment);
      start = segment.position;
    }
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
    for (const { state } of this.#ended.splice(0)) free(state);
    this.#become(snapshot);
    this.#position = this.#committed = snapshot.position;
  }

  /** Frees a snapshot that is not wanted any more. */
  drop(snapshot: Snapshot): void {
    free(snapshot.state);
  }

  /** The segment under way. */
  open(): OpenedSegment {
    return openSegments(this.#model, [this]);
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

  /** Moves the memory to host memory; it comes back with the next call that needs it. */
  async offload(): Promise<void> {
    if (this.#state === undefined) return;
    const moved = this.#state,
      host = await this.read();
    if (this.#state !== moved || this.#disposed) return; // it has gone on meanwhile
    this.#host = host;
    this.#state = undefined;
    free(moved);
  }

  /** Another place in another document; the numbers are copied to the engine. */
  load(parts: readonly HostPart[], place: Omit<Snapshot, "state">): void {
    this.returnTo({ ...place, state: this.#stored(this.#uploaded(parts)) });
  }

  /** The start of a document. */
  reset(): void {
    const state = this.#stored(this.#model.initialState(1));
    this.returnTo({ state, previous: undefined, current: [], position: 0 });
  }

  /** A second one at the same place. */
  clone(): DocumentState {
    const copy = new DocumentState(this.#model);
    copy.returnTo(this.snapshot());
    return copy;
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const { state } of this.#ended.splice(0)) free(state);
    if (this.#state !== undefined) free(this.#state);
    this.#host = undefined;
  }

  #become({ state, previous, current }: Snapshot): void {
    if (this.#state !== undefined) free(this.#state);
    this.#host = undefined;
    this.#state = state;
    this.#previous = previous;
    this.#current = [...current];
  }

  #resident(): State {
    if (this.#disposed) throw new MemformerError("DISPOSED", "this session has been disposed of");
    if (this.#state === undefined) {
      this.#state = this.#uploaded(this.#host!);
      this.#host = undefined;
    }
    return this.#state;
  }

  #uploaded(parts: readonly HostPart[]): State {
    return parts.map(({ data, shape, dtype }) => placed(Tensor.from(data, shape, dtype), this.#model.device));
  }

  /** In the precision that is kept; what was given is freed where that is another tensor. */
  #stored(state: State): State {
    const layout = storedLayout(this.#model);
    return state.map((tensor, i) => {
      if (layout[i]!.dtype === this.#model.stateLayout[i]!.dtype) return tensor;
      const kept = applyOperator("aten::_to_copy", tensor, layout[i]!.dtype);
      tensor.dispose();
      return kept;
    });
  }
}

/** The segments under way of several documents, as one batch. */
export function openSegments(model: SessionModel, documents: readonly DocumentState[]): OpenedSegment {
  const { segmentLength: T } = model.config,
    B = documents.length;
  const source = new Int32Array(B * T),
    target = new Int32Array(B * T),
    reset = new Uint8Array(B);
  for (const [row, { segment }] of documents.entries()) {
    source.set(segment.source, row * T);
    target.set(segment.target, row * T);
    reset[row] = segment.first ? 1 : 0;
  }
  const layout = storedLayout(model),
    made: Tensor[] = [];
  const keep = (tensor: Tensor): Tensor => (made.push(tensor), tensor);
  const states = documents.map(({ state }) => state);
  const state = model.stateLayout.map(({ dtype }, i) => {
    const rows = states.map((parts) => parts[i]!);
    const whole = B === 1 ? rows[0]! : keep(applyOperator("aten::cat", rows, 0));
    return dtype === layout[i]!.dtype ? whole : keep(applyOperator("aten::_to_copy", whole, dtype));
  });
  const segment = model.upload({ batch: B, length: T, source, target, reset });
  return {
    segment,
    state,
    [Symbol.dispose]() {
      disposeSegment(segment);
      free(made);
    },
  };
}

function free(state: State): void {
  for (const tensor of state) tensor.dispose();
}
