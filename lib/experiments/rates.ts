/**
 * The learning rate of every rival: the same models as in Table 1, a fraction of its epochs, at each rate. A comparison
 * at one rate for all says as much about that rate as about the models.
 */
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { publishedImages } from "./mnist-images.ts";
import {
  mnistRun,
  mnistSettings,
  mnistSizes,
  mnistVariants,
  type MnistResult,
  type MnistSettings,
} from "./mnist-runs.ts";
import { cell, mean, NONE, valuesOf, type Table } from "./report/table.ts";

/** One of each kind. */
const models = [
  "Memformer 4 + 8",
  "LSTM",
  "Transformer decoder",
  "Transformer-XL, memory 224",
  "Compressive Transformer, memory 56 + 56",
  "Recurrent Memory Transformer, memory 64",
  "Gated DeltaNet",
];
const sweeps: Readonly<Record<Budget, { readonly rates: readonly number[]; readonly epochs: number }>> = {
  smoke: { rates: [1e-3, 4e-3], epochs: 1 },
  minutes: { rates: [5e-4, 1e-3, 2e-3, 4e-3, 8e-3], epochs: 1 },
  full: { rates: [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], epochs: 4 },
};

export const rates = experiment<MnistSettings, MnistResult>({
  name: "rates",
  title: "The learning rate of each model",
  claim: "the paper names no rates; models are comparable where each has its own.",
  needs: "the IDX files of MNIST (--data mnist:FOLDER); smoke: nothing, its images are generated",
  async plan({ budget, seeds, data }) {
    const { rates: swept, epochs } = sweeps[budget],
      size = { ...mnistSizes[budget], epochs };
    if (size.generated === null) await publishedImages(data); // said before the first run
    return seeds.flatMap((seed) =>
      mnistVariants
        .filter(({ name }) => models.includes(name))
        .flatMap((variant) => swept.map((rate) => mnistSettings(variant, { ...size, rate }, seed))),
    );
  },
  run: mnistRun,
  report(runs, rows) {
    const swept = [...new Set(runs.map(({ rate }) => rate))];
    const of = (name: string, rate: number): ReturnType<Rows<MnistSettings, MnistResult>>[] =>
      runs.filter((run) => run.variant === name && run.rate === rate).map(rows);
    const perplexity = ({ perplexity: value }: MnistResult): number => value;
    const points = (name: string): (readonly [number, number])[] =>
      swept
        .map((rate) => [rate, mean(valuesOf(of(name, rate), perplexity))] as const)
        .filter(([, value]) => Number.isFinite(value));
    const best = (name: string): string => {
      const [first, ...others] = points(name);
      if (first === undefined) return NONE;
      return String(others.reduce((least, point) => (point[1] < least[1] ? point : least), first)[0]);
    };
    const table: Table = {
      title: "Test perplexity per pixel by learning rate",
      columns: ["model", ...swept.map(String), "best rate"],
      rows: models.map((name) => [name, ...swept.map((rate) => cell(of(name, rate), perplexity)), best(name)]),
      note: `${runs[0]?.epochs ?? 0} epochs, warm-up over a tenth of the steps, at most 100. A best rate at either end is not found yet.`,
    };
    return [
      {
        title: "Rates",
        tables: [table],
        charts: [
          {
            name: "rates",
            title: "Test perplexity by learning rate",
            x: { label: "learning rate", scale: "log" },
            y: { label: "perplexity", scale: "linear" },
            series: models.map((name) => ({ name, points: points(name) })),
          },
        ],
      },
    ];
  },
});
