/** Table 1: images as sequences of pixels, the model's sizes, and what is lost without each of its parts. */
import { experiment, type Picture, type Rows } from "./experiment.ts";
import { publishedImages } from "./mnist-images.ts";
import {
  mnistRun,
  mnistSettings,
  mnistSizes,
  mnistVariants,
  type MnistResult,
  type MnistSettings,
} from "./mnist-runs.ts";
import type { Pictures } from "./mnist-pictures.ts";
import { cell, type Table } from "./report/table.ts";

/** The model that draws. */
const artist = mnistVariants[0]!.name;

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

export const mnist = experiment<MnistSettings, MnistResult>({
  name: "mnist",
  title: "MNIST as pixels, with ablations",
  claim:
    "4 + 8 layers reach a perplexity of 1.555, a Transformer decoder 1.569, the best Transformer-XL 1.611; each part of the memory contributes (Table 1).",
  needs: "the IDX files of MNIST (--data mnist:FOLDER); smoke: nothing, its images are generated",
  async plan({ budget, seeds, data }) {
    const size = mnistSizes[budget];
    if (size.generated === null) await publishedImages(data); // said before the first run
    return seeds.flatMap((seed) => mnistVariants.map((variant) => mnistSettings(variant, size, seed)));
  },
  run: async (settings, context) => mnistRun(settings, context, settings.variant === artist),
  report(runs, rows) {
    const of = (name: string): ReturnType<Rows<MnistSettings, MnistResult>>[] =>
      runs.filter(({ variant }) => variant === name).map(rows);
    const [first] = runs;
    const ours: Table = {
      title: "Test perplexity per pixel",
      columns: ["model", "ours", "the paper", "parameters", "MFLOP an image", "state bytes", "M tokens"],
      rows: mnistVariants.map(({ name, paper: value }) => [
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
    return [{ title: "Table 1", tables: [ours, others], pictures: shown(of(artist)[0]?.result?.pictures) }];
  },
});

function shown(drawn: Pictures | null | undefined): Picture[] {
  if (drawn === null || drawn === undefined) return [];
  const completed = "of each line a test image, its upper half, and three completions of that half";
  return [
    { name: "mnist-digits", title: `Drawn by ${artist}, pixel by pixel`, png: drawn.digits },
    { name: "mnist-completions", title: `Completed by ${artist}: ${completed}`, png: drawn.completions },
  ];
}
