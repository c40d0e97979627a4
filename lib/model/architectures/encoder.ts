/** The stateful encoder; native/nn/models/memformer/encoder.cpp computes it. */
import type { Architecture } from "./architecture.ts";
import { bidirectionalWork, layerActivationBytes, memoryScoringBytes, outputWork, writerWork } from "./stacks.ts";

export const encoder: Architecture = {
  help: "hidden states and memory",
  generates: false,
  writesFrom: "source",
  separateDecoder: false,
  work(sizes) {
    const path = bidirectionalWork(sizes, sizes.encoderLayers, sizes.memorySlots) + writerWork(sizes);
    return { path, whole: path + outputWork(sizes) };
  },
  activationBytes(sizes, batch, length) {
    const layers = sizes.encoderLayers;
    return layerActivationBytes(sizes, { layers, readers: layers }, batch, length);
  },
  scoringBytes: memoryScoringBytes,
};
