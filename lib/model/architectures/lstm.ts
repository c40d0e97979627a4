/** A stack of LSTM layers, a rival of memories; native/nn/models/baselines/lstm.cpp computes it. */
import type { Architecture } from "./architecture.ts";
import { outputWork } from "./stacks.ts";

export const lstm: Architecture = {
  help: "a baseline: decoderLayers LSTM layers, whose state is their hidden and cell vectors",
  generates: true,
  separateDecoder: false,
  work(sizes) {
    const { width: D, segmentLength: T, decoderLayers } = sizes;
    const path = decoderLayers * T * 8 * D * D; // four gates, each of the input and of the hidden vector
    return { path, whole: path + outputWork(sizes) };
  },
  /** A layer keeps for a token two products of 4 D, the gates, what they are multiplied by, both vectors: float32. */
  activationBytes({ width, decoderLayers, precision }, batch, length) {
    return batch * length * decoderLayers * 22 * width * (precision === "float64" ? 8 : 4);
  },
  /** One layer at a time. */
  scoringBytes({ width, decoderLayers, precision }, batch, length) {
    return batch * width * (length * 24 + decoderLayers * 8) * (precision === "float64" ? 8 : 4);
  },
};
