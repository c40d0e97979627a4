/**
 * The models that benches measure, made of the package's presets in their plain form, which is the one that the peers
 * have and that older checkouts know. Whoever measures them says how many rows.
 */
import { plainOptions, presets, type CreateOptions, type ModelOptions } from "../../lib/index.ts";
import { shapes } from "../../lib/experiments/worth/shapes.ts";

export type Configuration = ModelOptions & { readonly horizon: number };

/** Those for GPUs: the paper's for WikiText-103, and for MNIST's pixels. */
export const configurations: Readonly<Record<string, Configuration>> = {
  wiki: { ...plainOptions, ...presets.wiki, horizon: 8 },
  // Its vocabulary without BOS, a multiple of 8: what the published figures and the peers' tensors have.
  mnist: { ...plainOptions, ...presets.mnist, vocabulary: 256, bos: 0, horizon: 14 },
};

/** Those for CPUs: the demo, and one wider. */
export const cpuConfigurations = {
  demo: { ...plainOptions, ...presets.demo, horizon: 4 },
  wider: {
    ...plainOptions,
    ...presets.demo,
    width: 256,
    feedForward: 1024,
    encoderLayers: 4,
    decoderLayers: 4,
    memorySlots: 64,
    horizon: 4,
  },
} as const satisfies Readonly<Record<string, Configuration>>;

/** Models that generate, by name, in the same form; by these seeds greedy text does not end. */
export const decodeModels: Readonly<Record<string, CreateOptions>> = {
  demo: { ...plainOptions, ...presets.demo },
  small: { ...plainOptions, ...presets.small, seed: 1 },
  wiki: { ...plainOptions, ...presets.wiki },
};

/** Rows and segments of a training step. */
export interface Trained {
  readonly model: ModelOptions;
  readonly lanes: number;
  readonly horizon: number;
}

/** Models whose training is measured in one form or another: those above, and those of the worth bench. */
export const trainedModels: Readonly<Record<string, Trained>> = {
  ...Object.fromEntries(
    Object.entries({ ...cpuConfigurations, ...configurations }).map(([name, { horizon, ...model }]) => [
      name,
      { model, lanes: name === "wider" ? 8 : 16, horizon },
    ]),
  ),
  ...Object.fromEntries(
    Object.entries(shapes).map(([name, { model, train, lanes }]) => [
      name,
      { model: { ...model, vocabulary: 16_000, bos: 0 }, lanes, horizon: train.horizon ?? 8 },
    ]),
  ),
};
