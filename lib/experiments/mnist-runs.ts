/** The runs of Table 1: images as sequences of pixels, the models that read them, and one run of a model. */
import { TokenStream } from "../data/index.ts";
import { evaluateSource } from "../evaluate/source.ts";
import { architectures } from "../model/architectures/index.ts";
import { modelConfig, type ModelOptions } from "../model/config.ts";
import { Memformer } from "../model/memformer.ts";
import type { Budget, Json, RunContext } from "./experiment.ts";
import { generatedImages, publishedImages, type Images } from "./mnist-images.ts";
import { pictures, type Pictures } from "./mnist-pictures.ts";
import { NONE } from "./report/table.ts";
import { trained } from "./training.ts";

/** What is shown, and at what cost. */
export interface MnistSize {
  /** Of a model, beside what a variant changes. */
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly lanes: number;
  readonly horizon: number;
  readonly epochs: number;
  readonly rate: number;
  /** Sides of a generated image, and how many to train and to test on; null: the published ones. */
  readonly generated: { readonly side: number; readonly train: number; readonly test: number } | null;
}

export interface MnistSettings extends MnistSize {
  readonly variant: string;
  readonly options: { readonly [option in keyof ModelOptions]?: Json };
  readonly seed: number;
}

export interface MnistResult {
  /** Of the test images, per pixel. */
  readonly perplexity: number;
  readonly nats: number;
  readonly parameters: number;
  /** Multiply-adds of a test image, forward, times two. */
  readonly flopsPerImage: number;
  readonly stateBytes: number;
  readonly tokens: number;
  readonly tokensPerSecond: number | null;
  /** Where they were asked for. */
  readonly pictures?: Pictures | null;
}

/** Transformer-XL's perplexity by the tokens it keeps, which are 1/14, 4/14 and all of an image. */
const published = { "56": "1.650", "224": "1.618", "784": "1.611" };

/** A row: what is changed for it, and the paper's perplexity. */
export interface Variant {
  readonly name: string;
  readonly options: { readonly [option in keyof ModelOptions]?: Json };
  readonly paper: string;
  /** Whether a segment is a whole image. */
  readonly whole?: boolean;
}

/** The paper's rows, then rivals that it does not have, of as many layers. */
export const mnistVariants: readonly Variant[] = [
  { name: "Memformer 4 + 8", options: { encoderLayers: 4, decoderLayers: 8 }, paper: "1.555" },
  { name: "Memformer 4 + 4", options: { encoderLayers: 4, decoderLayers: 4 }, paper: "1.628" },
  ...[
    { name: "2 + 6, memory 64", options: {}, paper: "1.594" },
    { name: "2 + 6, memory 32", options: { memorySlots: 32 }, paper: "1.600" },
    { name: "2 + 6, memory 16", options: { memorySlots: 16 }, paper: "1.604" },
    { name: "2 + 6, memory 1", options: { memorySlots: 1 }, paper: "1.627" },
    { name: "2 + 6, temperature 1", options: { writerTemperature: 1 }, paper: "1.612" },
    { name: "2 + 6, without forgetting", options: { forgetting: "none" }, paper: "1.630" },
    { name: "2 + 6, one head in the writer", options: { writerHeads: 1 }, paper: "1.626" },
    { name: "2 + 6, without memory", options: { memory: false }, paper: "1.745" },
  ].map(({ name, options, paper }) => ({
    name,
    options: { encoderLayers: 2, decoderLayers: 6, ...options },
    paper,
  })),
  // The paper does not say how many layers its LSTM has; ours has four.
  { name: "LSTM", options: { architecture: "lstm", decoderLayers: 4 }, paper: "1.698" },
  ...Object.entries(published).map(([cacheLength, paper]) => ({
    name: `Transformer-XL, memory ${cacheLength}`,
    options: { architecture: "transformer-xl" as const, decoderLayers: 8, cacheLength: Number(cacheLength) },
    paper,
  })),
  {
    name: "Transformer decoder",
    options: { architecture: "transformer-xl", decoderLayers: 8, cacheLength: 1, memory: false },
    paper: "1.569",
    whole: true,
  },
  {
    name: "Compressive Transformer, memory 56 + 56",
    options: { architecture: "compressive-transformer", decoderLayers: 8, cacheLength: 56, compressedLength: 56 },
    paper: NONE,
  },
  {
    name: "Recurrent Memory Transformer, memory 64",
    options: { architecture: "rmt", decoderLayers: 8, memorySlots: 64 },
    paper: NONE,
  },
  { name: "Gated DeltaNet", options: { architecture: "gated-delta", decoderLayers: 8 }, paper: NONE },
];

const paper = { width: 128, heads: 4, feedForward: 256, memorySlots: 64, segmentLength: 56, precision: "bfloat16" };
export const mnistSizes: Readonly<Record<Budget, MnistSize>> = {
  smoke: {
    model: { width: 32, heads: 2, feedForward: 64, memorySlots: 64, segmentLength: 14 },
    lanes: 8,
    horizon: 7,
    epochs: 1,
    rate: 2e-3,
    generated: { side: 14, train: 8, test: 4 },
  },
  minutes: { model: paper, lanes: 64, horizon: 14, epochs: 4, rate: 2e-3, generated: null },
  full: { model: paper, lanes: 64, horizon: 14, epochs: 12, rate: 2e-3, generated: null },
};

/**
 * A variant at a size: smaller images have as much smaller caches; where a segment is an image, a step is one of each.
 */
export function mnistSettings({ name, options, whole = false }: Variant, size: MnistSize, seed: number): MnistSettings {
  const pixels = (size.generated?.side ?? 28) ** 2;
  const scaled = Object.fromEntries(
    Object.entries(options).map(([option, value]) => [
      option,
      (option === "cacheLength" || option === "compressedLength") && typeof value === "number"
        ? Math.max(1, Math.round((value * pixels) / 784))
        : value,
    ]),
  );
  if (!whole) return { ...size, variant: name, options: scaled, seed };
  return { ...size, horizon: 1, variant: name, options: { ...scaled, segmentLength: pixels }, seed };
}

/** Trains a model, scores the test images, and draws some. Rejects with MemformerError DATA, NAN_LOSS, ABORTED. */
export async function mnistRun(settings: MnistSettings, context: RunContext, draws = false): Promise<MnistResult> {
  const { model: shape, options, lanes, horizon, epochs, rate, generated, seed } = settings;
  const { train, test } = await imagesOf(generated, context);
  const config: ModelOptions = {
    ...(shape as ModelOptions),
    ...(options as ModelOptions),
    vocabulary: 257,
    bos: 256,
  };
  await using model = await Memformer.create({ ...config, seed, device: context.device });
  const { segmentLength } = model.config,
    steps = Math.max(1, Math.round((epochs * train.tokens) / (lanes * segmentLength * horizon)));
  const made = await trained(
    model,
    new TokenStream(train, { lanes, segmentLength, seed }),
    { steps, horizon, learningRate: rate, warmup: Math.min(100, Math.ceil(steps / 10)), seed },
    context,
  );
  const score = await evaluateSource(model, test, { lanes, ablations: [], signal: context.signal });
  const segments = Math.ceil(test.documentLength(0) / segmentLength);
  return {
    perplexity: score.perplexity,
    nats: score.nats / score.tokens,
    parameters: model.parameterCount,
    flopsPerImage: 2 * segments * architectures[model.config.architecture].work(modelConfig(config)).whole,
    stateBytes: model.stateBytes,
    tokens: made.tokens,
    tokensPerSecond: Number.isFinite(made.tokensPerSecond) ? made.tokensPerSecond : null,
    pictures: draws ? await pictures(model, test, generated === null ? 64 : 9, seed, context.signal) : null,
  };
}

async function imagesOf(
  generated: MnistSize["generated"],
  { data, folder }: { readonly data: string | undefined; readonly folder: string },
): Promise<Images> {
  if (generated === null) return publishedImages(data);
  return generatedImages(folder, generated.side, [generated.train, generated.test]);
}
