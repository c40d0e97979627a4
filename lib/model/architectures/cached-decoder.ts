/**
 * Causal layers that read the memory and see their own inputs of the tokens before;
 * native/nn/models/memformer/cached_decoder.cpp computes them.
 */
import type { Architecture } from "./architecture.ts";
import { memoryReadWork, memoryScoringBytes, writerWork } from "./stacks.ts";
import { transformerXl } from "./transformer-xl.ts";

export const cachedDecoder: Architecture = {
  help: "causal layers that read memory, and see their own inputs of the cacheLength tokens before, as transformer-xl does",
  generates: true,
  writesFrom: "target",
  separateDecoder: false,
  work(sizes) {
    const { path, whole } = transformerXl.work(sizes),
      memory = sizes.decoderLayers * memoryReadWork(sizes, sizes.memorySlots) + writerWork(sizes);
    return { path: path + memory, whole: whole + memory };
  },
  /**
   * Beside Transformer-XL's: a sum and what two products read of a token, and a slot's keys and values in each layer.
   */
  activationBytes(sizes, batch, length) {
    const { width, memorySlots, decoderLayers, precision } = sizes,
      wider = precision === "float32" ? 1.7 : precision === "float64" ? 3.4 : 1;
    const reads = decoderLayers * length * 10 * width + memorySlots * width * (4 * decoderLayers + 18);
    return transformerXl.activationBytes(sizes, batch, length) + batch * reads * wider;
  },
  scoringBytes: (sizes, batch, length) =>
    transformerXl.scoringBytes(sizes, batch, length) + memoryScoringBytes(sizes, batch, length),
};
