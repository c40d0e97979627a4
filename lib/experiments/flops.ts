/** Floating-point operations by each architecture's own formula: a multiply-add is two; products of matrices alone. */
import { architectures } from "../model/architectures/index.ts";
import { modelConfig, type ModelOptions } from "../model/config.ts";

/** Of one row's segment. */
export interface SegmentFlops {
  /** Scored, without a gradient. */
  readonly forward: number;
  /** Trained on: forward, and back, which is two forwards. What a method computes anew is not counted. */
  readonly training: number;
  /** Trained on by MRBP, one segment a step: along the critical path beforehand, too. */
  readonly replayed: number;
}

export function segmentFlops(options: ModelOptions): SegmentFlops {
  const config = modelConfig(options),
    { path, whole } = architectures[config.architecture].work(config);
  return { forward: 2 * whole, training: 6 * whole, replayed: 2 * (path + 3 * whole) };
}
