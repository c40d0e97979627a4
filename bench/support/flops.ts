/**
 * Floating-point operations of a window, counted from its matrix products alone (a multiply-add is two), and the rates
 * they are held against. B rows, T tokens a segment, M slots, D width, F feed-forward width, V vocabulary, S segments.
 *   F_c  the critical path: the stack that reads the memory, and the writer
 *   F    the whole step: F_c, the decoder, the output projection
 * A backward pass is two products for each of the forward pass: 2 F.
 */
import type { GradientMethodName, ModelConfig } from "../../lib/index.ts";

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
  const { path, whole } = stepFlops(config, batch),
    G = Math.min(horizon, segmentsPerStep);
  const again = { mrbp: (horizon - G) * path, checkpointing: (horizon - 1) * whole, bptt: 0 }[method];
  return again + horizon * 3 * whole;
}

/** F_c and F of one segment. */
export function stepFlops(config: ModelConfig, batch: number): { readonly path: number; readonly whole: number } {
  const {
    width: D,
    feedForward: F,
    segmentLength: T,
    memorySlots: M,
    vocabulary: V,
    encoderLayers,
    decoderLayers,
    architecture,
    writer,
  } = config;
  const causal = (T * (T + 1)) / 2; // pairs (i, j <= i)
  const self = (pairs: number): number => 4 * T * D * D + 2 * pairs * D; // qkv, out; scores and sums
  const reads = (N: number): number => 2 * T * D * D + 2 * N * D * D + 2 * T * N * D;
  const feedForward = 2 * T * D * F;
  const encoder = encoderLayers * (self(T * T) + reads(M) + feedForward);
  const decoder = decoderLayers * (self(causal) + reads(architecture === "decoder" ? M : T) + feedForward);
  const slots = 2 * M * D * D + 2 * T * D * D + 2 * M * T * D + M * D; // q and k of slots, k and v of tokens; scores and sums
  const gru = writer === "gru" ? 2 * M * D * D + 6 * M * D * D + 2 * M * D * F : 0; // own value and out, the cell, feed-forward
  const path = (architecture === "decoder" ? decoder : encoder) + slots + gru;
  const whole = path + (architecture === "encoder-decoder" ? decoder : 0) + T * D * V;
  return { path: 2 * batch * path, whole: 2 * batch * whole };
}
