/**
 * A model as the gradient methods see it: a recurrence over a state. Your own composition of models fits it as well as
 * ours.
 */
import type { Segment } from "../data/segment.ts";
import type { Tensor } from "../engine/tensor.ts";
import type { ModelHandle } from "../native/addon.ts";
import type { Device } from "../native/cuda.ts";
import type { ModelDescription, Parameter } from "./parameter.ts";
import type { Ablation, Scored, ScoringState } from "./scoring.ts";
import type { SegmentTensors } from "./segment-tensors.ts";
import type { State, StatePart } from "./state.ts";

export type { State, StatePart } from "./state.ts";

/** How one step is computed. */
export interface StepOptions {
  /**
   * Decides every random draw of the step: the same seed, the same draws. A whole number, 0 <= seed < 2^53. Default 0.
   */
  readonly seed?: number;
  /**
   * The number of the step's first row among the lanes of a larger batch: each row's draws then follow from `seed` and
   * its own number (see `seedTensor`), whoever computes it. Default: from `seed` and the place in the batch.
   */
  readonly firstRow?: number;
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
  /** The state after the window's last segment, without history; empty unless `last`: it had been known before. */
  readonly state: State;
  /** dL/dstate of the state the first began with: a tensor per differentiable part, in the order of the layout. */
  readonly gradient: State;
}

/**
 * A model as the gradient methods see it: a step over a state. What fulfils it trains by MRBP. A step makes every
 * tensor of the next state anew: whoever called it frees the state before.
 */
export interface Recurrence {
  /** The parts of its state. Default: however many `forward` gives, all differentiable. */
  readonly stateLayout?: readonly StatePart[];
  /** The step without its loss, and without gradient: the next state alone. */
  advance(segment: SegmentTensors, state: State, options?: StepOptions): State;
  /**
   * The whole step; with `graph`, ready for {@link backward} down to the parameters and the given state's
   * differentiable parts.
   */
  forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step;
  /**
   * Consecutive segments from `state` as leaves and back at once: adds to the parameters' gradients that of
   * sum_g weights_g loss_g + <gradient, last state>. `last`: no later loss follows, and `gradient` is empty; else it
   * holds one tensor per differentiable part, none where the state has no such part. Default: composed of `forward`
   * and {@link backward}.
   */
  replay?(
    segments: readonly SegmentTensors[],
    state: State,
    weights: readonly number[],
    gradient: State,
    options: readonly StepOptions[],
    last: boolean,
  ): Replayed;
  /** Whether what `replay` does is recorded, and a window that it takes whole is one launch. Default false. */
  readonly capturesGraphs?: boolean;
  /** How many consecutive segments of a shape are best replayed together. Default 1. */
  segmentsPerStep?(segment: SegmentTensors): number;
}

/** A recurrence that {@link evaluate} can start and feed. */
export interface EvaluatedModel extends Recurrence {
  readonly stateLayout: readonly StatePart[];
  /** The state at time 0 of `rows` rows: one tensor per part of the layout. */
  initialState(rows: number): State;
  /** Hands a segment to the engine, where `forward` takes it from. */
  upload(segment: Segment): SegmentTensors;
  /**
   * The losses of G consecutive segments, without gradient and dropout, with the state and with each ablation in its
   * place. Default: composed of `forward`.
   */
  score?(segments: readonly SegmentTensors[], state: ScoringState, ablations: readonly Ablation[]): Scored;
  /** How many consecutive segments of `batch` rows of `length` tokens are best scored at once. Default 1. */
  scoringSegmentsPerStep?(batch: number, length: number): number;
}

/** @internal Parameters that the engine holds together; outside, their names begin with `prefix`. */
export interface HeldPart {
  readonly prefix: string;
  readonly handle: ModelHandle;
}

/**
 * A model that {@link Trainer} and {@link AdamW} train: a recurrence, and parameters that the engine holds.
 * {@link Memformer} is one; {@link ComposedModel} is the base of your own, {@link JointModel} that of several.
 */
export interface TrainableModel extends EvaluatedModel {
  readonly config: ModelDescription;
  /** Where it computes. */
  readonly device: Device;
  readonly parameters: readonly Parameter[];
  /** Whether it has been disposed of. */
  readonly disposed: boolean;
  /** Changes with every call that changes weights, or gradients other than by adding to them. */
  readonly revision: number;
  /** @internal The engine's end of its parameters: one, or one per model that it is made of. */
  readonly held: readonly HeldPart[];
  /** For what changes weights from outside, an optimizer: {@link revision} changes. */
  revise(): void;
  /** A parameter's values, shared with the model; the caller only reads them, and disposes of the handle. */
  ownParameter(name: string): Tensor;
  /** Copies `value` into a parameter. */
  assign(name: string, value: Tensor): void;
  /** Drops the gradients gathered so far. */
  zeroGradients(): void;
  /**
   * The L2 norm over all gradients, (); they are scaled so that it is at most `most` (0: never). `whole`: the norm to
   * go by instead, of a larger model that this one is a part of.
   */
  clipGradients(most: number, whole?: Tensor): Tensor;
  /**
   * What a config.json says, with the options that it is too old to name. Default: as it stands. Throws MemformerError
   * CONFIG, naming `file`, for what no model of this kind has.
   */
  readDescription?(found: Readonly<Record<string, unknown>>, file: string): ModelDescription;
}
