/** The interface that a session needs of a model. */
import type { Segment } from "../data/segment.ts";
import type { Tensor } from "../engine/tensor.ts";
import type { Decoder, DecoderOptions } from "./decoder.ts";
import type { ModelConfig } from "../model/config.ts";
import type { State, StatePart } from "../model/recurrence.ts";
import type { SegmentTensors } from "../model/segment-tensors.ts";
import type { Device } from "../native/cuda.ts";

/** The interface that a {@link Session} needs of its model. {@link Memformer} implements it. */
export interface SessionModel {
  readonly config: Pick<ModelConfig, "segmentLength" | "vocabulary" | "bos"> & {
    /** What it computes in; a session keeps its state in it. Default: the state's own dtypes. */
    readonly precision?: string;
  };
  /** Where it computes. */
  readonly device: Device;
  /** The parts of its state: what a saved session holds. */
  readonly stateLayout: readonly StatePart[];
  /** The state before the first segment, for so many rows. */
  initialState(rows: number): State;
  /** Hands a segment to the engine. */
  upload(segment: Segment): SegmentTensors;
  /**
   * @internal Whether `advance` takes a state in the precision it computes in, too, and gives the next one likewise.
   */
  readonly advancesNarrow?: boolean;
  /** The state after a segment. */
  advance(segment: SegmentTensors, state: State): State;
  /** @internal How many consecutive segments {@link advanceAll} is given; absent or 1: it is not called. */
  readonly segmentsAtOnce?: number;
  /**
   * @internal The state after consecutive segments, of which the first alone may start a document: to the bit what
   * `advance` of one after the other gives.
   */
  advanceAll?(segments: readonly SegmentTensors[], state: State): State;
  /** The next token's logits (B, V), given the tokens of the segment so far. */
  logits(segment: SegmentTensors, prefix: Tensor, state: State): Tensor;
  /** Token by token, without computing anything twice. A model without it is asked for `logits` each time. */
  decoder?(slots: number, options?: DecoderOptions): Decoder;
  /** @internal Changes with every call that changes the weights. */
  readonly revision?: number;
  /** @internal A hash that identifies these weights among others of the same shape. */
  weightsHash(): Promise<string>;
}
