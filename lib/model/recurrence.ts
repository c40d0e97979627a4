/**
 * A model as the gradient methods see it: a recurrence over a state. Your own composition of models fits it as well as
 * ours.
 */
import type { Tensor } from "../engine/tensor.ts";
import type { SegmentTensors } from "./segment-tensors.ts";

/**
 * What a model carries from segment to segment: its memory, a cache, or nothing. The first dimension of each tensor is
 * the rows, B.
 */
export type State = readonly Tensor[];

/** How one step is computed. */
export interface StepOptions {
  /**
   * Decides every random draw of the step: the same seed, the same draws. A whole number, 0 <= seed < 2^53. Default 0.
   */
  readonly seed?: number;
  /** Whether dropout is on. Default false. */
  readonly training?: boolean;
}

/** What one step of a model gives: losses, how many tokens they are of, and the next state. */
export interface Step {
  /** () mean negative log-likelihood of the scored targets, nats. */
  readonly loss: Tensor;
  /** () int64, how many targets were scored. */
  readonly count: Tensor;
  readonly state: State;
}

/** What going over G consecutive segments and back gives. */
export interface Replayed {
  /** (G) each: as in {@link Step}, without history. */
  readonly loss: Tensor;
  readonly count: Tensor;
  /**
   * The state after the last, without history; empty when a gradient of it was given, for then it had been known
   * before.
   */
  readonly state: State;
  /** dL/dstate of the state the first began with. */
  readonly gradient: State;
}

/** A model as training, evaluation and sessions see it: a step over a state. What fulfils it trains by MRBP. */
export interface Recurrence {
  /** The step without its loss, and without gradient: the next state alone. */
  advance(segment: SegmentTensors, state: State, options?: StepOptions): State;
  /** The whole step; with `graph`, ready for {@link backward} down to the parameters and the given state. */
  forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step;
  /**
   * Consecutive segments from `state` as a leaf and back at once: adds to the parameters' gradients that of
   * sum_g weights_g loss_g + <gradient, last state> (an empty gradient: of the losses alone). What has none of its own
   * gets the one that lib/gradients/mrbp.ts composes.
   */
  replay?(
    segments: readonly SegmentTensors[],
    state: State,
    weights: readonly number[],
    gradient: State,
    options: readonly StepOptions[],
  ): Replayed;
  /** Whether what `replay` does is recorded, and a window that it takes whole is one launch. Default false. */
  readonly recorded?: boolean;
  /** How many consecutive segments of a shape are best replayed together. Default 1. */
  together?(segment: SegmentTensors): number;
}
