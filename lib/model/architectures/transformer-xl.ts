/** Transformer-XL, a rival of memories; native/nn/models/baselines/transformer_xl.cpp computes it. */
import type { Architecture } from "./architecture.ts";
import { outputWork } from "./stacks.ts";

export const transformerXl: Architecture = {
  help: "a baseline: Transformer-XL of decoderLayers layers, whose state is its layers' inputs of cacheLength tokens",
  generates: true,
  separateDecoder: false,
  /** A token's keys are those of the cache and of the segment up to it. */
  work(sizes) {
    const { width: D, feedForward: F, segmentLength: T, cacheLength: C, decoderLayers } = sizes,
      pairs = T * C + (T * (T + 1)) / 2;
    const projections = 2 * T * D * D + 2 * (C + T) * D * D, // queries, output; keys, values
      scores = 2 * pairs * D + (C + T) * D * D + pairs * D; // contents, values; distances
    const path = decoderLayers * (projections + scores + 2 * T * D * F);
    return { path, whole: path + outputWork(sizes) };
  },
  activationBytes({ width, feedForward, cacheLength, decoderLayers, heads, precision }, batch, length) {
    const wider = precision === "float32" ? 1.7 : precision === "float64" ? 3.4 : 1;
    const keys = cacheLength + length,
      token = 34 * width + 4 * feedForward + 14 * heads * keys; // the scores by content, by distance, and their softmax
    return batch * decoderLayers * (length * token + cacheLength * width * 12) * wider;
  },
  scoringBytes({ width, feedForward, cacheLength, decoderLayers, heads, precision }, batch, length) {
    const wider = precision === "float64" ? 4 : precision === "float32" ? 2 : 1;
    const inside = length * (32 * width + 6 * feedForward + 14 * heads * (cacheLength + length));
    return batch * wider * (inside + decoderLayers * (cacheLength + length) * width * 16);
  },
};
