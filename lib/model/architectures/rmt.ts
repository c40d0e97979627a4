/** The Recurrent Memory Transformer, a rival of memories; native/nn/models/baselines/rmt.cpp computes it. */
import type { Architecture } from "./architecture.ts";
import { layerActivationBytes, memoryScoringBytes, outputWork } from "./stacks.ts";

export const rmt: Architecture = {
  help: "a baseline: the Recurrent Memory Transformer of decoderLayers layers, which reads its memory as memorySlots tokens before the segment and writes it as the same number of tokens after it",
  generates: true,
  separateDecoder: false,
  /**
   * The memory before the segment sees itself, a token that and the tokens up to itself, the memory behind everything.
   */
  work(sizes) {
    const { width: D, feedForward: F, segmentLength: T, memorySlots: M, decoderLayers } = sizes,
      N = T + 2 * M,
      pairs = M * M + T * M + (T * (T + 1)) / 2 + M * N;
    const path = decoderLayers * (4 * N * D * D + 2 * pairs * D + 2 * N * D * F);
    return { path, whole: path + outputWork(sizes) };
  },
  activationBytes(sizes, batch, length) {
    const tokens = length + 2 * sizes.memorySlots;
    return layerActivationBytes(
      { ...sizes, memorySlots: 0 },
      { layers: sizes.decoderLayers, readers: 0 },
      batch,
      tokens,
    );
  },
  scoringBytes: (sizes, batch, length) => memoryScoringBytes(sizes, batch, length + 2 * sizes.memorySlots),
};
