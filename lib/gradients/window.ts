/** A window of consecutive segments, and what every gradient method over one takes and gives. */
import { MemformerError } from "../errors.ts";
import type { Recurrence, State, StepOptions } from "../model/recurrence.ts";
import { mixedSeed } from "../model/row-seeds.ts";
import { scoredTargets, type SegmentTensors } from "../model/segment-tensors.ts";
import type { Tensor } from "../engine/tensor.ts";

/**
 * How the losses of a window's segments, each the mean over its scored targets, add up:
 * - `"tokens"`: by the targets scored in each, so that every one of them weighs alike and the sum is the window's mean
 *   loss;
 * - `"segments"`: equally, the mean of the segments' means; `"uniform"` is an earlier name of it;
 * - `"doubling"`: each segment twice as much as the one before it, together 1;
 * - a list: one factor per segment, taken as it is.
 */
export type LossWeights = "tokens" | "segments" | "uniform" | "doubling" | readonly number[];

/** How the gradient of a window is taken. */
export interface WindowOptions {
  /** Seed of the window; each segment's own follows from it. Default 0. */
  readonly seed?: number | undefined;
  /**
   * The number of the first row among the lanes of a larger batch: dropout's masks then follow from the seed and each
   * row's own number, so that they are the same however the batch is divided. Default: they follow from the seed and
   * the place in the batch.
   */
  readonly firstRow?: number | undefined;
  /** Default "tokens". */
  readonly weights?: LossWeights | undefined;
  /** Multiplies the window's loss, 1 / n to accumulate over n windows. Default 1. */
  readonly scale?: number | undefined;
  /** After how many segments the state to carry on is taken; fewer than all, and windows overlap. Default: all. */
  readonly carry?: number | undefined;
  /** Whether dropout is on. Default true. */
  readonly training?: boolean | undefined;
  /**
   * Of MRBP: how many consecutive segments a step goes over. The gradient is the same for every number; memory holds
   * that many segments' activations. Default: what the model thinks best, 1 on a CPU.
   */
  readonly segmentsPerStep?: number | undefined;
  /**
   * How many rows of the batch the method goes over at once, one group of so many after the other. Losses, state and
   * gradient are those of the whole batch, a segment's loss being the mean over all its scored targets; activations and
   * the memories that are kept are of so many rows only. Only dropout draws other masks, unless `firstRow` is given:
   * each group has a seed of its own. Default: all rows.
   */
  readonly microBatch?: number | undefined;
}

/** The loss of a window, and the state to go on from. */
export interface WindowResult {
  /** () each: the mean loss of every segment, nats, without history. */
  readonly losses: readonly Tensor[];
  /** () int64 each: the targets scored in every segment. */
  readonly counts: readonly Tensor[];
  /** The state to begin the next window with, without history. */
  readonly state: State;
  /** dL/dstate of the given state's differentiable parts: what reached the window's start. */
  readonly gradient: State;
}

/**
 * Adds to the parameters' gradients that of  scale * sum_t weights_t loss_t  over the window, starting from `state`,
 * which it leaves alone. Enqueues only.
 */
export type GradientMethod = (
  model: Recurrence,
  window: readonly SegmentTensors[],
  state: State,
  options?: WindowOptions,
) => WindowResult;

/**
 * The weights of S segments, of which `scored` has the number of scored targets ("tokens" alone asks for it). Throws
 * MemformerError CONFIG when a list does not hold S finite numbers.
 */
export function lossWeights(weights: LossWeights, S: number, scored: readonly number[] = []): readonly number[] {
  if (weights === "tokens") {
    if (scored.length !== S)
      throw new MemformerError(
        "CONFIG",
        `weights "tokens" need the scored targets of ${S} segments, got ${scored.length}`,
      );
    const all = Math.max(1, total(scored));
    return scored.map((count) => count / all);
  }
  if (weights === "segments" || weights === "uniform") return Array.from({ length: S }, () => 1 / S);
  if (weights === "doubling") return Array.from({ length: S }, (_, t) => 2 ** t / (2 ** S - 1));
  if (weights.length !== S || weights.some((weight) => !Number.isFinite(weight))) {
    throw new MemformerError(
      "CONFIG",
      `weights must be ${S} finite numbers, one per segment, got [${weights.join(", ")}]`,
    );
  }
  return weights;
}

/** The weights of a window's segments, by what each of them scores. */
export function windowWeights(window: readonly SegmentTensors[], weights: LossWeights = "tokens"): readonly number[] {
  return lossWeights(weights, window.length, window.map(scoredTargets));
}

/**
 * The weights of every window of one optimizer step: by "tokens" every scored target of the step weighs alike, else
 * every window does. A list is divided by its sum. scored: the targets scored in each segment of each window.
 */
export function stepWeights(
  windows: readonly (readonly SegmentTensors[])[],
  weights: LossWeights,
  scored: readonly (readonly number[])[] = windows.map((window) => window.map(scoredTargets)),
): readonly (readonly number[])[] {
  if (weights === "tokens") {
    const all = lossWeights("tokens", total(windows.map(({ length }) => length)), scored.flat());
    let first = 0;
    return windows.map(({ length }) => all.slice(first, (first += length)));
  }
  return windows.map((window, i) => {
    const given = lossWeights(weights, window.length, scored[i]),
      sum = total(given);
    return given.map((weight) => weight / sum / windows.length);
  });
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** Shared by all methods: checked options, and the weights and step options of every segment. */
export function planWindow(
  window: readonly SegmentTensors[],
  options: WindowOptions,
): { weights: number[]; steps: StepOptions[]; carry: number } {
  const S = window.length,
    carry = options.carry ?? S,
    scale = options.scale ?? 1;
  if (S === 0) throw new MemformerError("CONFIG", "a window needs at least one segment, got none");
  if (!Number.isInteger(carry) || carry < 1 || carry > S)
    throw new MemformerError("CONFIG", `carry must be a whole number from 1 to ${S}, got ${carry}`);
  const { segmentsPerStep } = options;
  if (segmentsPerStep !== undefined && (!Number.isInteger(segmentsPerStep) || segmentsPerStep < 1))
    throw new MemformerError("CONFIG", `segmentsPerStep must be a whole number of at least 1, got ${segmentsPerStep}`);
  const training = options.training ?? true;
  return {
    weights: windowWeights(window, options.weights).map((weight) => weight * scale),
    steps: window.map((_, t) => ({
      seed: segmentSeed(options.seed ?? 0, t),
      ...(options.firstRow !== undefined && { firstRow: options.firstRow }),
      training,
    })),
    carry,
  };
}

/** A seed of its own for segment t: a 53-bit mix, so that neighbouring windows and segments share no masks. */
export function segmentSeed(seed: number, t: number): number {
  return mixedSeed(seed, t);
}
