/** The models that benches measure. */
import type { CreateOptions, ModelOptions } from "../../lib/index.ts";

/** On GPUs: the paper's for WikiText-103 and for MNIST's pixels. */
export const configurations: Record<string, ModelOptions & { horizon: number }> = {
  wiki: {
    vocabulary: 32_000,
    bos: 0,
    width: 512,
    heads: 8,
    feedForward: 2048,
    encoderLayers: 4,
    decoderLayers: 16,
    memorySlots: 1024,
    segmentLength: 128,
    horizon: 8,
  },
  mnist: {
    vocabulary: 256,
    bos: 0,
    width: 128,
    heads: 4,
    feedForward: 256,
    encoderLayers: 4,
    decoderLayers: 8,
    memorySlots: 64,
    segmentLength: 56,
    horizon: 14,
  },
};

/** Models that generate, by name. */
export const decodeModels: Record<string, CreateOptions> = {
  demo: {
    width: 128,
    heads: 4,
    feedForward: 512,
    encoderLayers: 2,
    decoderLayers: 2,
    memorySlots: 32,
    segmentLength: 64,
  },
  small: { preset: "small" },
  wiki: { preset: "wiki" },
};
