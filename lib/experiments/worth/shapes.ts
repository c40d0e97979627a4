/** The sizes that worth is measured at: tiny for a look, small ones for a CPU, `base` for a GPU. */
import type { Options } from "./variants.ts";

export interface Shape extends Options {
  readonly lanes: number;
}

const small = { width: 128, heads: 4, feedForward: 512, encoderLayers: 2, decoderLayers: 2, memorySlots: 16 };
const tiny = { width: 32, heads: 2, feedForward: 64, encoderLayers: 1, decoderLayers: 1, memorySlots: 4 };
const base = { width: 512, heads: 8, feedForward: 2048, encoderLayers: 4, decoderLayers: 8, memorySlots: 128 };

/** Those of base take 32,768 tokens a step. */
export const shapes: Readonly<Record<string, Shape>> = {
  "tiny-16": { lanes: 8, model: { ...tiny, segmentLength: 16 }, train: { horizon: 4 } },
  "small-16": { lanes: 16, model: { ...small, segmentLength: 16 }, train: { horizon: 16 } },
  "small-32": { lanes: 8, model: { ...small, segmentLength: 32 }, train: { horizon: 16 } },
  "small-decoder-16": {
    lanes: 16,
    model: { ...small, architecture: "decoder", decoderLayers: 4, segmentLength: 16 },
    train: { horizon: 16 },
  },
  "base-32": { lanes: 64, model: { ...base, segmentLength: 32 }, train: { horizon: 16 } },
  "base-128": { lanes: 32, model: { ...base, segmentLength: 128 }, train: { horizon: 8 } },
  // What four times the context of base-128 is worth to a twin: the most that its memory could add.
  "base-512": { lanes: 32, model: { ...base, segmentLength: 512 }, train: { horizon: 2 } },
  "base-decoder-64": {
    lanes: 64,
    model: { ...base, architecture: "decoder", segmentLength: 64 },
    train: { horizon: 8 },
  },
};
