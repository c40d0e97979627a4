/** The paper's main model; native/nn/models/memformer/encoder_decoder.cpp computes it. */
import type { Architecture } from "./architecture.ts";
import {
  bidirectionalWork,
  causalWork,
  layerActivationBytes,
  memoryScoringBytes,
  outputWork,
  writerWork,
} from "./stacks.ts";

export const encoderDecoder: Architecture = {
  help: "the paper's",
  generates: true,
  writesFrom: "source",
  separateDecoder: true,
  work(sizes) {
    const path = bidirectionalWork(sizes, sizes.encoderLayers, sizes.memorySlots) + writerWork(sizes);
    const decoder = causalWork(sizes, sizes.decoderLayers, sizes.segmentLength);
    return { path, whole: path + decoder + outputWork(sizes) };
  },
  activationBytes(sizes, batch, length) {
    const { encoderLayers, decoderLayers } = sizes,
      layers = encoderLayers + decoderLayers;
    return layerActivationBytes(sizes, { layers, readers: encoderLayers }, batch, length);
  },
  scoringBytes: memoryScoringBytes,
};
