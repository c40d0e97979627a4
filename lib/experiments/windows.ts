/** Windows of random tokens, and the time of training steps over them. */
import type { Segment } from "../data/segment.ts";
import { Random } from "../data/random.ts";
import { synchronize } from "../engine/runtime.ts";
import { tidy, type Tensor } from "../engine/tensor.ts";
import { gradientMethods, type GradientMethodName } from "../gradients/methods.ts";
import type { WindowOptions } from "../gradients/window.ts";
import type { Memformer } from "../model/memformer.ts";
import type { State } from "../model/recurrence.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import type { AdamW } from "../train/optimizer.ts";

/** S segments of B rows of the model's T random tokens, none padded; with `fresh` the first starts documents. */
export function randomSegments({ config }: Memformer, batch: number, horizon: number, fresh = true): Segment[] {
  const { vocabulary, segmentLength: length } = config,
    random = new Random(0);
  const tokens = (): Int32Array => Int32Array.from({ length: batch * length }, () => random.below(vocabulary));
  let source = tokens();
  return Array.from({ length: horizon }, (_, t) => {
    const target = tokens(),
      reset = new Uint8Array(batch).fill(fresh && t === 0 ? 1 : 0);
    const segment = { batch, length, source, target, reset };
    source = target;
    return segment;
  });
}

export function randomWindow(model: Memformer, batch: number, horizon: number): SegmentTensors[] {
  return randomSegments(model, batch, horizon).map((segment) => model.upload(segment));
}

/** How the batch and the window are cut into steps: what of {@link WindowOptions} is asked for, else what is best. */
export type Cut = Pick<WindowOptions, "segmentsPerStep" | "microBatch">;

export function disposeWindow(window: readonly SegmentTensors[]): void {
  window.forEach(disposeSegment);
}

export interface EnqueuedWindow {
  readonly state: State;
  readonly losses: readonly Tensor[];
  readonly norm: Tensor;
}

/**
 * One training step from `state`, which it disposes of: gradient, clipping to 1, AdamW; without an optimizer the
 * gradient is dropped.
 */
export function enqueueWindow(
  model: Memformer,
  window: readonly SegmentTensors[],
  method: GradientMethodName,
  state: State,
  seed: number,
  optimizer?: AdamW,
  cut: Cut = {},
): EnqueuedWindow {
  return tidy(() => {
    const { state: next, losses } = gradientMethods[method](model, window, state, { seed, ...cut });
    const norm = model.clipGradients(0);
    if (optimizer === undefined) model.zeroGradients();
    else optimizer.step(3e-4, norm, 1);
    for (const tensor of state) tensor.dispose();
    return { state: next, losses, norm };
  });
}

/** Seconds of each of `count` steps; every step is waited for. */
export async function timeSteps(
  model: Memformer,
  window: readonly SegmentTensors[],
  method: GradientMethodName,
  count: number,
  optimizer?: AdamW,
  cut: Cut = {},
): Promise<number[]> {
  let state = model.initialState(window[0]!.batch);
  const seconds: number[] = [];
  for (let i = 0; i < count; i++) {
    const began = performance.now();
    const made = enqueueWindow(model, window, method, state, i, optimizer, cut);
    await synchronize();
    seconds.push((performance.now() - began) / 1000);
    for (const tensor of [made.norm, ...made.losses]) tensor.dispose();
    state = made.state;
  }
  for (const tensor of state) tensor.dispose();
  return seconds;
}
