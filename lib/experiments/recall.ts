/**
 * What only a memory can do: a key is shown some segments before it is asked for. Trained on lags of 1 to `trainLag`,
 * how often is it named right, at those lags and far beyond them; and with a horizon of 1, where no gradient crosses a
 * segment?
 */
import { Memformer } from "../model/memformer.ts";
import type { ModelOptions } from "../model/config.ts";
import type { TrainOptions } from "../train/config.ts";
import { experiment, type Budget, type Json, type Row } from "./experiment.ts";
import { cell, mean, percent, valuesOf, type Table } from "./report/table.ts";
import type { Chart } from "./report/chart.ts";
import { recallAccuracy, recallModel, recallText, recallTraining, type RecallRun } from "./recall-task.ts";
import { trained } from "./training.ts";

export interface RecallSettings extends Omit<RecallRun, "minLag" | "maxLag"> {
  readonly trainLag: number;
  readonly lags: readonly number[];
  readonly horizon: number;
  readonly steps: number;
  /** What differs from the defaults. */
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly train: { readonly [option in keyof TrainOptions]?: Json };
  readonly seed: number;
}

/** Shares of keys named right, 0 to 1. */
export interface RecallResult {
  /** Over the lags of training: with the memory, and with zeros in its place. */
  readonly whole: number;
  readonly zeroed: number;
  /** By lag. */
  readonly byLag: Readonly<Record<string, number>>;
  readonly stateBytes: number;
}

/**
 * Of each budget, what is trained over a horizon that spans the lags; beside it the same number of segments at horizon
 * 1.
 */
const sizes: Readonly<Record<Budget, Omit<RecallSettings, "seed" | "model" | "train">>> = {
  smoke: { lanes: 16, segmentLength: 6, keys: 8, trainLag: 2, lags: [2, 4], horizon: 4, steps: 40 },
  minutes: { lanes: 32, segmentLength: 8, keys: 16, trainLag: 8, lags: [8, 16, 32, 64], horizon: 16, steps: 400 },
  full: {
    lanes: 32,
    segmentLength: 8,
    keys: 16,
    trainLag: 16,
    lags: [16, 32, 64, 128, 256],
    horizon: 32,
    steps: 800,
  },
};

/** Trains and measures one model. */
export const recall = experiment<RecallSettings, RecallResult>({
  name: "recall",
  title: "Recall: a key named many segments after it was shown",
  claim:
    "the memory keeps important information through many timesteps, and MRBP learns it from gradients over a long horizon. The paper has no number for this task.",
  async plan({ budget, seeds }) {
    const { horizon, steps, ...size } = sizes[budget];
    const runs: readonly Pick<RecallSettings, "horizon" | "steps" | "model">[] = [
      { horizon, steps, model: {} },
      { horizon: 1, steps: steps * horizon, model: {} },
    ];
    return seeds.flatMap((seed) => runs.map((run) => ({ ...size, ...run, train: {}, seed })));
  },
  async run(settings, context) {
    const { lanes, segmentLength, keys, trainLag, lags, horizon, steps, seed } = settings;
    const task: RecallRun = { lanes, segmentLength, keys, minLag: 1, maxLag: trainLag };
    await using model = await Memformer.create({
      ...recallModel(task),
      ...(settings.model as ModelOptions),
      seed,
      device: context.device,
    });
    const options = { ...recallTraining, ...(settings.train as TrainOptions), horizon, steps, seed };
    await trained(model, recallText(task), { ...options, warmup: Math.min(options.warmup ?? 0, steps >> 1) }, context);
    const byLag: Record<string, number> = {},
      atLag = (lag: number): RecallRun => ({ ...task, minLag: lag, maxLag: lag });
    for (const lag of lags) byLag[lag] = await recallAccuracy(model, atLag(lag), 6 * (lag + 1));
    return {
      whole: await recallAccuracy(model, task, 12 * (trainLag + 1)),
      zeroed: await recallAccuracy(model, task, 12 * (trainLag + 1), true),
      byLag,
      stateBytes: model.stateBytes,
    };
  },
  report(runs, rows) {
    const kinds = [...new Map(runs.map((run) => [JSON.stringify({ ...run, seed: 0 }), run])).values()];
    const groups = kinds.map((kind) => ({
      kind,
      rows: runs
        .filter((run) => JSON.stringify({ ...run, seed: 0 }) === JSON.stringify({ ...kind, seed: 0 }))
        .map(rows),
    }));
    const lags = [...new Set(runs.flatMap((run) => run.lags))];
    const table: Table = {
      title: "Keys named right, unseen documents",
      columns: [
        "trained over",
        "state bytes",
        "at the lags of training",
        "state zeroed",
        ...lags.map((lag) => `lag ${lag}`),
      ],
      rows: groups.map(({ kind, rows: own }) => [
        nameOf(kind),
        cell(own.slice(0, 1), ({ stateBytes }) => stateBytes, String),
        cell(own, ({ whole }) => whole, percent),
        cell(own, ({ zeroed }) => zeroed, percent),
        ...lags.map((lag) => cell(own, ({ byLag }) => byLag[lag], percent)),
      ]),
      note: `Chance is ${percent(1 / (runs[0]?.keys ?? 16))}. Each horizon sees the same number of segments, lags 1 to ${runs[0]?.trainLag}.`,
    };
    const chart: Chart = {
      name: "recall-by-lag",
      title: "Keys named right by lag",
      x: { label: "segments since the key was shown", scale: "log" },
      y: { label: "share named right", scale: "linear" },
      series: groups.map(({ kind, rows: own }) => ({ name: nameOf(kind), points: pointsOf(lags, own) })),
    };
    return [{ title: "Recall by lag", tables: [table], charts: [chart] }];
  },
});

function nameOf({ horizon, model, train }: RecallSettings): string {
  const options = Object.entries({ ...model, ...train }).map(([name, value]) =>
    name === "architecture" ? String(value as string) : `${name} ${JSON.stringify(value)}`,
  );
  return [`horizon ${horizon}`, ...options].join(", ");
}

function pointsOf(
  lags: readonly number[],
  rows: readonly (Row<RecallSettings, RecallResult> | undefined)[],
): [number, number][] {
  return lags.map((lag) => [lag, mean(valuesOf(rows, ({ byLag }) => byLag[lag]))]);
}
