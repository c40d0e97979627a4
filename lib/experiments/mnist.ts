/** Table 1: images as sequences of pixels, the model's sizes, and what is lost without each of its parts. */
import { TokenStream } from "../data/index.ts";
import { evaluateSource } from "../evaluate/source.ts";
import { architectures } from "../model/architectures/index.ts";
import { modelConfig, type ModelOptions } from "../model/config.ts";
import { Memformer } from "../model/memformer.ts";
import { experiment, type Budget, type Json, type Picture, type Rows } from "./experiment.ts";
import { generatedImages, publishedImages, type Images } from "./mnist-images.ts";
import { pictures, type Pictures } from "./mnist-pictures.ts";
import { cell, type Table } from "./report/table.ts";
import { trained } from "./training.ts";

/** What is shown, and at what cost. */
interface Size {
  /** Of a model, beside what a variant changes. */
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly lanes: number;
  readonly horizon: number;
  readonly epochs: number;
  readonly rate: number;
  /** Sides of a generated image, and how many to train and to test on; null: the published ones. */
  readonly generated: { readonly side: number; readonly train: number; readonly test: number } | null;
}

export interface MnistSettings extends Size {
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
  /** Of the first model of a table; null of others. */
  readonly pictures?: Pictures | null;
}

/** Of an image. */
const PIXELS = 784;

/** Transformer-XL's perplexity by the tokens it keeps, which are 1/14, 4/14 and all of an image. */
const published = { "56": "1.650", "224": "1.618", "784": "1.611" };

/** The paper's rows: what we change for each, and its perplexity. */
const variants: readonly {
  readonly name: string;
  readonly options: { readonly [option in keyof ModelOptions]?: Json };
  readonly paper: string;
}[] = [
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
  // The paper does not say how many layers its decoder has; ours has as many as Transformer-XL, and reads an image
  // whole.
  {
    name: "Transformer decoder",
    options: {
      architecture: "transformer-xl" as const,
      memory: false,
      decoderLayers: 8,
      cacheLength: 1,
      segmentLength: PIXELS,
    },
    paper: "1.569",
  },
  // Nor how many its LSTM has; ours has four.
  { name: "LSTM", options: { architecture: "lstm", decoderLayers: 4 }, paper: "1.698" },
  ...Object.entries(published).map(([cacheLength, paper]) => ({
    name: `Transformer-XL, memory ${cacheLength}`,
    options: { architecture: "transformer-xl" as const, decoderLayers: 8, cacheLength: Number(cacheLength) },
    paper,
  })),
];

/** What Table 1 has besides perplexities. */
const others: Table = {
  title: "The paper's FLOPs",
  columns: ["model", "FLOPs, billions", "perplexity"],
  rows: [
    ["LSTM", "52.5", "1.698"],
    ["Transformer decoder", "41.3", "1.569"],
    ["Transformer-XL, memory 56", "5.6", "1.650"],
    ["Transformer-XL, memory 224", "15.6", "1.618"],
    ["Transformer-XL, memory 784", "49.1", "1.611"],
    ["Memformer 4 + 8", "5.0", "1.555"],
  ],
  note: "The paper does not say how it counts FLOPs: compare ratios.",
};

const paper = { width: 128, heads: 4, feedForward: 256, memorySlots: 64, segmentLength: 56, precision: "bfloat16" };
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    model: { width: 32, heads: 2, feedForward: 64, memorySlots: 64, segmentLength: 14 },
    lanes: 8,
    horizon: 7,
    epochs: 1,
    rate: 2e-3,
    generated: { side: 14, train: 16, test: 4 },
  },
  minutes: { model: paper, lanes: 64, horizon: 14, epochs: 4, rate: 2e-3, generated: null },
  full: { model: paper, lanes: 64, horizon: 14, epochs: 40, rate: 2e-3, generated: null },
};

export const mnist = experiment<MnistSettings, MnistResult>({
  name: "mnist",
  title: "MNIST as pixels, with ablations",
  claim:
    "4 + 8 layers reach a perplexity of 1.555, a Transformer decoder 1.569, the best Transformer-XL 1.611; each part of the memory contributes (Table 1).",
  needs: "the IDX files of MNIST (--data mnist:FOLDER); smoke: nothing, its images are generated",
  async plan({ budget, seeds, data }) {
    const size = sizes[budget];
    if (size.generated === null) await publishedImages(data); // said before the first run
    return seeds.flatMap((seed) =>
      variants.map(({ name, options }) => ({
        ...size,
        ...windowOf(options, size),
        variant: name,
        options: scaled(options, size),
        seed,
      })),
    );
  },
  async run(settings, context) {
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
      pictures:
        settings.variant === variants[0]!.name
          ? await pictures(model, test, generated === null ? 64 : 9, seed, context.signal)
          : null,
    };
  },
  report(runs, rows) {
    const of = (name: string): ReturnType<Rows<MnistSettings, MnistResult>>[] =>
      runs.filter(({ variant }) => variant === name).map(rows);
    const [first] = runs;
    const ours: Table = {
      title: "Test perplexity per pixel",
      columns: ["model", "ours", "the paper", "parameters", "MFLOP an image", "state bytes", "M tokens"],
      rows: variants.map(({ name, paper: value }) => [
        name,
        cell(of(name), ({ perplexity }) => perplexity),
        value,
        cell(of(name).slice(0, 1), ({ parameters }) => parameters, String),
        cell(
          of(name).slice(0, 1),
          ({ flopsPerImage }) => flopsPerImage / 1e6,
          (value) => value.toFixed(1),
        ),
        cell(of(name).slice(0, 1), ({ stateBytes }) => stateBytes, String),
        cell(
          of(name).slice(0, 1),
          ({ tokens }) => tokens / 1e6,
          (value) => value.toFixed(2),
        ),
      ]),
      note:
        (first?.generated ?? null) === null
          ? `${first?.epochs ?? 0} epochs of all 60,000 training images; the 10,000 test images. One learning rate for all.`
          : "Generated images, a few steps: this shows that the experiment runs, and nothing about the paper.",
    };
    const { name } = variants[0]!;
    return [{ title: "Table 1", tables: [ours, others], pictures: shown(name, of(name)[0]?.result?.pictures) }];
  },
});

function shown(model: string, drawn: Pictures | null | undefined): Picture[] {
  if (drawn === null || drawn === undefined) return [];
  const completed = "of each line a test image, its upper half, and three completions of that half";
  return [
    { name: "mnist-digits", title: `Drawn by ${model}, pixel by pixel`, png: drawn.digits },
    { name: "mnist-completions", title: `Completed by ${model}: ${completed}`, png: drawn.completions },
  ];
}

/** Smaller images have as much smaller caches, and segments as large as they are. */
function scaled(options: MnistSettings["options"], { generated }: Size): MnistSettings["options"] {
  if (generated === null) return options;
  const share = generated.side ** 2 / PIXELS;
  return {
    ...options,
    ...(typeof options.cacheLength === "number" && { cacheLength: Math.ceil(options.cacheLength * share) }),
    ...(typeof options.segmentLength === "number" && { segmentLength: Math.round(options.segmentLength * share) }),
  };
}

/** What reads an image in one segment has windows of one: in the published sizes as many tokens a step as all. */
function windowOf(options: MnistSettings["options"], { horizon }: Size): Pick<Size, "horizon"> {
  return { horizon: options.segmentLength === PIXELS ? 1 : horizon };
}

async function imagesOf(
  generated: Size["generated"],
  { data, folder }: { readonly data: string | undefined; readonly folder: string },
): Promise<Images> {
  if (generated === null) return publishedImages(data);
  return generatedImages(folder, generated.side, [generated.train, generated.test]);
}
