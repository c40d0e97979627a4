/** Floating-point operations by each architecture's own formula: a multiply-add is two; products of matrices alone. */
import { architectures } from "../model/architectures/index.ts";
import { modelConfig, type ModelOptions } from "../model/config.ts";

/** Of one row's segment: scored without a gradient, and trained on by MRBP. */
export interface SegmentFlops {
  readonly forward: number;
  /** Forward along the critical path, forward again, and back, which is two forwards. */
  readonly training: number;
}

export function segmentFlops(options: ModelOptions): SegmentFlops {
  const config = modelConfig(options),
    { path, whole } = architectures[config.architecture].work(config);
  return { forward: 2 * whole, training: 2 * (path + 3 * whole) };
}
