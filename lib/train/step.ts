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
import { learningRateAt } from "./schedule.ts";
import { disposeSegment } from "../model/segment-tensors.ts";
import { applyOperator, placed, Tensor, tidy } from "../engine/tensor.ts";
import type { TrainConfig } from "./config.ts";
import type { Window } from "./window-reader.ts";
import { segmentSeed, stepWeights } from "../gradients/window.ts";

/** The gradient of a step, enqueued. It adds to the gradients of the model's parameters. */
export interface EnqueuedGradient {
  /** (S) losses and counts of the step's segments. */
  readonly losses: Tensor;
  readonly counts: Tensor;
  /** () the largest norm of dL/dstate at a window's start; undefined where the state has no gradient. */
  readonly memoryNorm: Tensor | undefined;
  /** The state to begin the next step with. */
  readonly state: State;
}

/** A whole step, enqueued. */
export interface EnqueuedStep extends EnqueuedGradient {
  /** () of all gradients, before clipping. */
  readonly norm: Tensor;
  readonly learningRate: number;
}

/** What a step has given. */
export interface StepResult {
  /** Scored tokens. */
  readonly scored: number;
  /** Mean nats of these. */
  readonly loss: number;
  readonly norm: number;
  readonly memoryNorm: number;
}

export interface StepPlan {
  readonly config: TrainConfig;
  /** Counts from 1. */
  readonly step: number;
  readonly windows: readonly Window[];
  /** Segments that a window shares with the next. */
  readonly overlap: number;
  readonly signal: AbortSignal | undefined;
}

/** Enqueues the gradient of a step from `state`; nothing has run when this returns. */
export function enqueueGradient(
  model: TrainableModel,
  state: State,
  { config, step, windows, overlap, signal }: StepPlan,
): EnqueuedGradient {
  return cancellable(signal, () =>
    tidy(() => {
      let carried = passed(model, state, config, step, windows[0]!.segments[0]!.batch);
      const losses: Tensor[] = [],
        counts: Tensor[] = [],
        reached: Tensor[] = [];
      const uploaded = windows.map(({ segments }) => segments.map((segment) => model.upload(segment)));
      const weights = stepWeights(uploaded, config.weights);
      for (const [i, window] of uploaded.entries()) {
        const result = gradientMethods[config.method](model, window, carried, {
          seed: segmentSeed(config.seed, step * windows.length + i),
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
        memoryNorm:
          reached.length === 0 ? undefined : applyOperator("aten::max", applyOperator("aten::stack", reached)),
      };
    }),
  );
}

/** Enqueues the update by a gradient: an abort either comes before it, and the weights stay, or the step is whole. */
export function enqueueUpdate(
  model: TrainableModel,
  optimizer: AdamW,
  gradient: EnqueuedGradient,
  plan: StepPlan,
): EnqueuedStep {
  const { config, step, signal } = plan,
    learningRate = learningRateAt(step, config);
  return cancellable(signal, () => {
    const norm = model.clipGradients(0);
    optimizer.step(learningRate, norm, config.clip);
    return { ...gradient, norm, learningRate };
  });
}

/** State passing: some of the rows, drawn anew for every step, go on from the state of the row before. */
function passed(
  { stateLayout, device }: TrainableModel,
  state: State,
  { statePassing, seed }: TrainConfig,
  step: number,
  rows: number,
): State {
  if (statePassing === 0) return state;
  const random = new Random(seed, step),
    drawn = Uint8Array.from({ length: rows }, () => (random.next() < statePassing * 2 ** 32 ? 1 : 0));
  return state.map((tensor, i) => {
    const mask = placed(Tensor.from(drawn, flagShape(rows, stateLayout[i]!), "bool"), device);
    return applyOperator("aten::where.self", mask, applyOperator("aten::roll", tensor, [1], [0]), tensor);
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
export async function readStep(made: EnqueuedStep): Promise<StepResult> {
  const [losses, counts, norm, memoryNorm] = await Promise.all([
    made.losses.data(),
    made.counts.data(),
    made.norm.item(),
    made.memoryNorm?.item() ?? 0,
  ]);
  made.norm.dispose();
  for (const tensor of [made.losses, made.counts, made.memoryNorm]) tensor?.dispose();
  const scored = [...counts].reduce<number>((sum, count) => sum + Number(count), 0);
  const nats = [...losses].reduce<number>((sum, loss, i) => sum + Number(loss) * Number(counts[i]), 0);
  return { scored, loss: nats / Math.max(1, scored), norm, memoryNorm };
}

/** Frees what a gradient holds that no step will be made of. */
export function disposeGradient({ losses, counts, memoryNorm, state }: EnqueuedGradient): void {
  for (const tensor of [losses, counts, memoryNorm, ...state]) tensor?.dispose();
}
