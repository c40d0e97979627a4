/** Causal layers that read the memory; native/nn/models/memformer/decoder.cpp computes them. */
import type { Architecture } from "./architecture.ts";
import { causalWork, layerActivationBytes, memoryScoringBytes, outputWork, writerWork } from "./stacks.ts";

export const decoder: Architecture = {
  help: "causal layers that read memory",
  generates: true,
  writesFrom: "target",
  separateDecoder: false,
  work(sizes) {
    const path = causalWork(sizes, sizes.decoderLayers, sizes.memorySlots) + writerWork(sizes);
    return { path, whole: path + outputWork(sizes) };
  },
  activationBytes(sizes, batch, length) {
    const layers = sizes.decoderLayers;
    return layerActivationBytes(sizes, { layers, readers: layers }, batch, length);
  },
  scoringBytes: memoryScoringBytes,
};
