/** Windows as benches cut them into steps, and where the model computes; their tokens are the experiments'. */
import {
  applyOperator,
  type Memformer,
  type Segment,
  type SegmentTensors,
  type Tensor,
  tidy,
} from "../../lib/index.ts";
import type { Cut } from "../../lib/experiments/windows.ts";
import { flag } from "./report.ts";

export {
  disposeWindow,
  enqueueWindow,
  randomSegments,
  randomWindow,
  timeSteps,
  type Cut,
  type EnqueuedWindow,
} from "../../lib/experiments/windows.ts";

/** The segments where the model computes. */
export function resident(model: Memformer, segments: readonly Segment[]): SegmentTensors[] {
  const moved = (tensor: Tensor): Tensor => applyOperator("aten::_to_copy", tensor, null, null, model.device);
  return tidy(() =>
    segments.map((segment) => {
      const given = model.upload(segment);
      return {
        ...given,
        source: moved(given.source),
        target: moved(given.target),
        reset: moved(given.reset),
        lengths: moved(given.lengths),
      };
    }),
  );
}

/** The segments that a step of MRBP goes over, cut so. */
export function segmentsAStep(
  model: Memformer,
  window: readonly SegmentTensors[],
  { segmentsPerStep, microBatch = Infinity }: Cut,
): number {
  const segment = window[0]!;
  return Math.min(
    window.length,
    segmentsPerStep ?? model.segmentsPerStep({ ...segment, batch: Math.min(segment.batch, microBatch) }),
  );
}

/** `--segments-per-step N` and `--micro-batch N`, where they are given. */
export function cutFlags(flags: readonly string[]): Cut {
  const given = (name: string): number | undefined => (flags.includes(`--${name}`) ? flag(flags, name, 1) : undefined);
  return { segmentsPerStep: given("segments-per-step"), microBatch: given("micro-batch") };
}
