/**
 * One optimizer step in two halves, each enqueued as a whole: the gradient of its windows, which changes no weight,
 * then clipping and the update. Between them nothing has to be read, so the next step's gradient follows this one's
 * update without a gap.
 */
import { Random } from "../data/random.ts";
import { gradientMethods } from "../gradients/methods.ts";
import type { AdamW } from "./optimizer.ts";
import type { State, TrainableModel } from "../model/recurrence.ts";
import { flagShape } from "../model/state.ts";
import { cancellable } from "../engine/runtime.ts";
import type { Group } from "../distributed/group.ts";
import type { Lanes } from "../distributed/share.ts";
import { learningRateAt } from "./schedule.ts";
import { disposeSegment, scoredTargets } from "../model/segment-tensors.ts";
import { applyOperator, placed, Tensor, tidy } from "../engine/tensor.ts";
import type { TrainConfig } from "./config.ts";
import type { Window } from "./window-reader.ts";
import { segmentSeed, stepWeights } from "../gradients/window.ts";

/** The gradient of a step, enqueued. It adds to the gradients of the model's parameters. */
export interface EnqueuedGradient {
  /** (S) losses and counts of the step's segments. */
  readonly losses: Tensor;
  readonly counts: Tensor;
  /** (W) the norm of dL/dstate at each window's start; undefined where the state has no gradient. */
  readonly memoryNorms: Tensor | undefined;
  /** The state to begin the next step with. */
  readonly state: State;
}

/** A whole step, enqueued. */
export interface EnqueuedStep extends EnqueuedGradient {
  /** () of all gradients, before clipping. */
  readonly norm: Tensor;
  readonly learningRate: number;
  /** (S + W + 1) of all ranks: nats of every segment, squares of the memory's norms, ranks that want to stop. */
  readonly sums: Tensor | undefined;
}

/** What a step has given. */
export interface StepResult {
  /** Scored tokens. */
  readonly scored: number;
  /** Mean nats of these. */
  readonly loss: number;
  readonly norm: number;
  readonly memoryNorm: number;
  /** Whether some rank wants this step to be the last. */
  readonly stops: boolean;
}

/** The ranks that make a step together, and the lanes of this one. */
export interface Ranks {
  readonly group: Group;
  readonly lanes: Lanes;
}

export interface StepPlan {
  readonly config: TrainConfig;
  /** Counts from 1. */
  readonly step: number;
  readonly windows: readonly Window[];
  /** Segments that a window shares with the next. */
  readonly overlap: number;
  readonly signal: AbortSignal | undefined;
  readonly ranks?: Ranks | undefined;
}

/** Enqueues the gradient of a step from `state`; nothing has run when this returns. */
export function enqueueGradient(
  model: TrainableModel,
  state: State,
  { config, step, windows, overlap, signal, ranks }: StepPlan,
): EnqueuedGradient {
  return cancellable(signal, () =>
    tidy(() => {
      const { batch } = windows[0]!.segments[0]!,
        lanes = ranks?.lanes ?? { first: 0, count: batch, total: batch };
      let carried = passed(model, state, config, step, lanes, ranks?.group);
      const losses: Tensor[] = [],
        counts: Tensor[] = [],
        reached: Tensor[] = [];
      const uploaded = windows.map(({ segments }) => segments.map((segment) => model.upload(segment)));
      // Ranks are groups of a batch's rows, as micro-batches are: a segment's loss is the mean over the targets of all.
      const own = uploaded.map((window) => window.map(scoredTargets)),
        scored = windows.map(({ segments }, i) => segments.map(({ scoredOfAll }, t) => scoredOfAll ?? own[i]![t]!));
      const weights = stepWeights(uploaded, config.weights, scored).map((ofWindow, i) =>
        ofWindow.map((weight, t) => weight * share(own[i]![t]!, scored[i]![t]!)),
      );
      for (const [i, window] of uploaded.entries()) {
        const result = gradientMethods[config.method](model, window, carried, {
          seed: segmentSeed(config.seed, step * windows.length + i),
          firstRow: lanes.first,
          weights: weights[i]!,
          carry: window.length - overlap,
          segmentsPerStep: config.segmentsPerStep,
          microBatch: config.microBatch,
        });
        window.forEach(disposeSegment);
        losses.push(...result.losses);
        counts.push(...result.counts);
        if (result.gradient.length > 0) reached.push(normOf(result.gradient));
        carried = result.state;
      }
      return {
        losses: applyOperator("aten::stack", losses),
        counts: applyOperator("aten::stack", counts),
        state: carried,
        memoryNorms: reached.length === 0 ? undefined : applyOperator("aten::stack", reached),
      };
    }),
  );
}

/** The part of a segment's targets that this rank scores. */
function share(own: number, all: number): number {
  return own === all ? 1 : own / Math.max(1, all);
}

/**
 * Enqueues the update by a gradient: an abort either comes before it, and the weights stay, or the step is whole. Ranks
 * sum their gradients first, in the one collective of a step; `stops`: whether this one wants to stop after it.
 */
export function enqueueUpdate(
  model: TrainableModel,
  optimizer: AdamW,
  gradient: EnqueuedGradient,
  plan: StepPlan,
  stops = false,
): EnqueuedStep {
  const { config, step, signal, ranks } = plan,
    learningRate = learningRateAt(step, config);
  return cancellable(signal, () => {
    const { norm, extras: sums } =
      ranks === undefined
        ? { norm: model.clipGradients(0), extras: undefined }
        : tidy(() => ranks.group.reduceGradients(model.held, reported(gradient, stops, model.device)));
    optimizer.step(learningRate, norm, config.clip);
    return { ...gradient, norm, learningRate, sums };
  });
}

/** What a rank reports with its gradient: see {@link EnqueuedStep.sums}. */
function reported({ losses, counts, memoryNorms }: EnqueuedGradient, stops: boolean, device: string): Tensor {
  const nats = applyOperator("aten::mul.Tensor", losses, counts),
    flag = placed(Tensor.from(Float32Array.of(stops ? 1 : 0), [1]), device);
  const squares = memoryNorms === undefined ? [] : [applyOperator("aten::mul.Tensor", memoryNorms, memoryNorms)];
  return applyOperator("aten::cat", [nats, ...squares, flag], 0);
}

/** State passing: some of the rows, drawn anew for every step, go on from the state of the row before. */
function passed(
  { stateLayout, device }: TrainableModel,
  state: State,
  { statePassing, seed }: TrainConfig,
  step: number,
  { first, count, total }: Lanes,
  group: Group | undefined,
): State {
  if (statePassing === 0) return state;
  const random = new Random(seed, step),
    drawn = Uint8Array.from({ length: total }, () => (random.next() < statePassing * 2 ** 32 ? 1 : 0));
  return state.map((tensor, i) => {
    const mask = placed(
      Tensor.from(drawn.subarray(first, first + count), flagShape(count, stateLayout[i]!), "bool"),
      device,
    );
    const before = applyOperator("aten::roll", group?.gatherRows(tensor, first, total) ?? tensor, [1], [0]);
    return applyOperator(
      "aten::where.self",
      mask,
      group === undefined ? before : applyOperator("aten::narrow", before, 0, first, count),
      tensor,
    );
  });
}

/** () the L2 norm over all numbers of some tensors. */
function normOf(tensors: readonly Tensor[]): Tensor {
  const norms = tensors.map((tensor) => applyOperator("aten::linalg_vector_norm", tensor));
  return norms.length === 1
    ? norms[0]!
    : applyOperator("aten::linalg_vector_norm", applyOperator("aten::stack", norms));
}

/** Waits for a step. Rejects with the error of the call that failed. */
export async function readStep(made: EnqueuedStep, { windows }: StepPlan): Promise<StepResult> {
  const [losses, counts, norm, norms, sums] = await Promise.all([
    made.losses.data(),
    made.counts.data(),
    made.norm.item(),
    made.memoryNorms?.data() ?? [],
    made.sums?.data(),
  ]);
  made.norm.dispose();
  for (const tensor of [made.losses, made.counts, made.memoryNorms, made.sums]) tensor?.dispose();
  const of = numbersOf(counts),
    own = numbersOf(losses),
    all = numbersOf(sums ?? []),
    S = own.length;
  const isAlone = sums === undefined,
    nats = isAlone ? own.map((loss, t) => loss * of[t]!) : all.slice(0, S),
    squares = isAlone ? numbersOf(norms).map((one) => one ** 2) : all.slice(S, -1),
    scored = total(isAlone ? of : windows.flatMap(({ segments }) => segments.map(({ scoredOfAll }) => scoredOfAll!)));
  return {
    scored,
    loss: total(nats) / Math.max(1, scored),
    norm,
    memoryNorm: Math.sqrt(Math.max(0, ...squares)),
    stops: (all.at(-1) ?? 0) > 0,
  };
}

function numbersOf(array: Iterable<number | bigint>): number[] {
  return Array.from(array, Number);
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** Frees what a gradient holds that no step will be made of. */
export function disposeGradient({ losses, counts, memoryNorms, state }: EnqueuedGradient): void {
  for (const tensor of [losses, counts, memoryNorms, ...state]) tensor?.dispose();
}
