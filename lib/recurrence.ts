/** A model as the gradient methods see it: a recurrence over a state. Your own composition of models fits it as well as ours. */
import type { Tensor } from "./tensor.ts";
import type { SegmentTensors } from "./segment-tensors.ts";

/** What a model carries from segment to segment: its memory, a cache, or nothing. */
export type State = readonly Tensor[];

export interface StepOptions {
  /** Decides every random draw of the step: the same seed, the same draws. A whole number, 0 <= seed < 2^53. Default 0. */
  readonly seed?: number;
  /** Whether dropout is on. Default false. */
  readonly training?: boolean;
}

export interface Step {
  /** () mean negative log-likelihood of the scored targets, nats. */
  readonly loss: Tensor;
  /** () int64, how many targets were scored. */
  readonly count: Tensor;
  readonly state: State;
}

export interface Recurrence {
  /** The step without its loss, and without gradient: the next state alone. */
  advance(segment: SegmentTensors, state: State, options?: StepOptions): State;
  /** The whole step; with `graph`, ready for {@link backward} down to the parameters and the given state. */
  forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step;
}
