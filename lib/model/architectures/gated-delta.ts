/** Gated DeltaNet, a rival of memories; native/nn/models/baselines/gated_delta.cpp computes it. */
import type { Architecture, Sizes } from "./architecture.ts";
import { outputWork } from "./stacks.ts";

/** Tokens that the rule is computed for at once: native/nn/gated_delta.cpp. */
const CHUNK = 64;

/**
 * Numbers that a layer keeps of a token: the projections and the convolution's, those of a chunk's pairs, the
 * feed-forward.
 */
function perToken({ width, feedForward, heads }: Sizes, length: number): number {
  return 32 * width + 2 * feedForward + 6 * heads * Math.min(CHUNK, length);
}

export const gatedDelta: Architecture = {
  help: "a baseline: Gated DeltaNet of decoderLayers layers, whose state is a matrix per head (width / heads squared) and the last 3 inputs of their convolutions",
  generates: true,
  separateDecoder: false,
  work(sizes) {
    const { width: D, feedForward: F, segmentLength: T, heads: H, decoderLayers } = sizes,
      projections = 5 * D * D + 2 * H * D; // queries, keys, values, output gate, output; forgetting and writing
    const rule = 3 * D * (D / H) + 4 * Math.min(CHUNK, T) * D; // with the matrix; with the chunk's other tokens
    const path = decoderLayers * T * (projections + rule + 2 * D * F);
    return { path, whole: path + outputWork(sizes) };
  },
  activationBytes(sizes, batch, length) {
    const bytes = sizes.precision === "float64" ? 8 : 4;
    return batch * length * sizes.decoderLayers * perToken(sizes, length) * bytes;
  },
  /** One layer at a time. */
  scoringBytes(sizes, batch, length) {
    const bytes = sizes.precision === "float64" ? 8 : 4,
      { width: D, heads: H, decoderLayers } = sizes;
    return batch * bytes * (length * perToken(sizes, length) + 4 * decoderLayers * D * (D / H + 9));
  },
};
