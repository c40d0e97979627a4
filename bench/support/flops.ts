/**
 * Floating-point operations of a window, counted from its matrix products alone (a multiply-add is two), and the rates
 * they are held against.
 *   F_c  the critical path: the stack that reads the memory, and the writer
 *   F    the whole step: F_c, the decoder, the output projection
 * The model says how many they are (lib/model/architectures). A backward pass is two products for each of the forward
 * pass: 2 F.
 */
import type { GradientMethodName, ModelConfig } from "../../lib/index.ts";
import { architectures } from "../../lib/model/architectures/index.ts";

/** Dense bfloat16 products with float32 sums, FLOP/s by the makers' data sheets. */
const peaks: readonly (readonly [name: RegExp, rate: number])[] = [
  [/H100 PCIe/, 756e12],
  [/H100 NVL/, 835e12],
  [/H100|H200|GH200/, 989e12],
  [/B200/, 2250e12],
  [/A100/, 312e12],
  [/A10G?\b/, 125e12],
  [/L40S/, 362e12],
  [/L4\b/, 121e12],
  [/RTX 4090/, 165e12],
  [/RTX 3090/, 71e12],
];

/** The rate of a device by its name; undefined for one that is not in the table. */
export function peakRate(device: string): number | undefined {
  return peaks.find(([name]) => name.test(device))?.[1];
}

/**
 * FLOPs of the gradient of one window by a method. What BPTT does not run: MRBP F_c for every segment before its last
 * step of `segmentsPerStep` segments, checkpointing F for every segment but the last.
 */
export function windowFlops(
  config: ModelConfig,
  batch: number,
  horizon: number,
  method: GradientMethodName,
  segmentsPerStep = 1,
): number {
  const { path, whole } = architectures[config.architecture].work(config),
    G = Math.min(horizon, segmentsPerStep);
  const again = { mrbp: (horizon - G) * path, checkpointing: (horizon - 1) * whole, bptt: 0 }[method];
  return 2 * batch * (again + horizon * 3 * whole);
}
