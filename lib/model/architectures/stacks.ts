/** Work and memory of the stacks of layers that the Memformers are made of; native/nn/stacks.h has them. */
import { writers } from "../writers.ts";
import type { Sizes } from "./architecture.ts";

/** Layers whose every token attends to `pairs` / T others of its segment and to `keys` slots or tokens beside. */
function stackWork(sizes: Sizes, pairs: number, keys: number): number {
  const { width: D, feedForward: F, segmentLength: T } = sizes;
  const self = 4 * T * D * D + 2 * pairs * D; // queries, keys, values, output; scores and sums
  return self + memoryReadWork(sizes, keys) + 2 * T * D * F;
}

/** Multiply-adds of a layer's read of `keys` slots or tokens. */
export function memoryReadWork({ width: D, segmentLength: T }: Sizes, keys: number): number {
  return 2 * T * D * D + 2 * keys * D * D + 2 * T * keys * D;
}

/** Multiply-adds of `layers` bidirectional layers that read `keys` slots. */
export function bidirectionalWork(sizes: Sizes, layers: number, keys: number): number {
  return layers * stackWork(sizes, sizes.segmentLength ** 2, keys);
}

/** The same of causal layers, which attend to T (T + 1) / 2 pairs. */
export function causalWork(sizes: Sizes, layers: number, keys: number): number {
  return layers * stackWork(sizes, (sizes.segmentLength * (sizes.segmentLength + 1)) / 2, keys);
}

export function writerWork(sizes: Sizes): number {
  return writers[sizes.writer].work(sizes);
}

export function outputWork({ segmentLength: T, width: D, vocabulary: V }: Sizes): number {
  return T * D * V;
}

/**
 * What the backward pass of a segment holds, in two-byte numbers and float32 sums. A layer keeps for a token three
 * residual sums and what six products read (34 bytes per number of width), and the inside of its feed-forward twice;
 * each of the `readers`, the layers that read the memory, keeps its keys and values, and they share the standardized
 * slots.
 */
export function layerActivationBytes(
  { width, feedForward, memorySlots, precision }: Sizes,
  { layers, readers }: { readonly layers: number; readonly readers: number },
  batch: number,
  length: number,
): number {
  const token = layers * (34 * width + 4 * feedForward),
    slot = width * (4 * readers + 18);
  const wider = precision === "float32" ? 1.7 : precision === "float64" ? 3.4 : 1;
  return batch * (length * token + memorySlots * slot) * wider;
}

/**
 * What a segment that is scored holds: of a slot its memory before every segment, as it is, held, shuffled and above
 * each other (float32), and one layer's normed slots, keys and values; of a token one layer's sums and products.
 */
export function memoryScoringBytes(
  { width, feedForward, memorySlots, precision }: Sizes,
  batch: number,
  length: number,
): number {
  const wider = precision === "float64" ? 4 : precision === "float32" ? 2 : 1;
  return batch * wider * (memorySlots * width * 32 + length * (width * 32 + feedForward * 6));
}
