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
import { recallAccuracy, recallModel, trainRecall, type RecallRun, type RecallStage } from "./recall-task.ts";

/** `trainLag`, `horizon` and `steps` are those of the last stage of training. */
export interface RecallSettings extends Omit<RecallRun, "minLag" | "maxLag">, RecallStage {
  /** The stages before it, of shorter lags; absent: none. */
  readonly earlier?: readonly RecallStage[];
  readonly lags: readonly number[];
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
 * 1. A lag that the memory cannot reach at all teaches nothing: so `full` goes to its last lag by stages, each of which
 * can do part of what the next one asks.
 */
const sizes: Readonly<Record<Budget, Omit<RecallSettings, "seed" | "model" | "train">>> = {
  smoke: { lanes: 16, segmentLength: 6, keys: 8, trainLag: 2, lags: [2, 4], horizon: 4, steps: 40 },
  minutes: { lanes: 32, segmentLength: 8, keys: 16, trainLag: 8, lags: [8, 16, 32, 64], horizon: 16, steps: 400 },
  full: {
    lanes: 32,
    segmentLength: 8,
    keys: 16,
    earlier: [
      { trainLag: 8, horizon: 16, steps: 400 },
      { trainLag: 32, horizon: 32, steps: 100 },
      { trainLag: 128, horizon: 128, steps: 80 },
    ],
    trainLag: 256,
    lags: [16, 32, 64, 128, 256, 512],
    horizon: 256,
    steps: 100,
  },
};

/** Trains and measures one model. */
export const recall = experiment<RecallSettings, RecallResult>({
  name: "recall",
  title: "Recall: a key named many segments after it was shown",
  claim:
    "the memory keeps important information through many timesteps, and MRBP learns it from gradients over a long horizon. The paper has no number for this task.",
  async plan({ budget, seeds }) {
    const size = sizes[budget],
      runs = [
        size,
        { ...size, ...ofHorizonOne(size), ...(size.earlier && { earlier: size.earlier.map(ofHorizonOne) }) },
      ];
    return seeds.flatMap((seed) => runs.map((run) => ({ ...run, model: {}, train: {}, seed })));
  },
  async run(settings, context) {
    const { lanes, segmentLength, keys, trainLag, lags, seed } = settings;
    const task: RecallRun = { lanes, segmentLength, keys, minLag: 1, maxLag: trainLag };
    await using model = await Memformer.create({
      ...recallModel(task),
      ...(settings.model as ModelOptions),
      seed,
      device: context.device,
    });
    const options = { ...(settings.train as TrainOptions), seed };
    await trainRecall(model, task, stagesOf(settings), options, context);
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
        "lags up to",
        "steps",
        "state bytes",
        "at the lags of training",
        "state zeroed",
        ...lags.map((lag) => `lag ${lag}`),
      ],
      rows: groups.map(({ kind, rows: own }) => [
        nameOf(kind),
        listOf(kind, ({ trainLag }) => trainLag),
        listOf(kind, ({ steps }) => steps),
        cell(own.slice(0, 1), ({ stateBytes }) => stateBytes, String),
        cell(own, ({ whole }) => whole, percent),
        cell(own, ({ zeroed }) => zeroed, percent),
        ...lags.map((lag) => cell(own, ({ byLag }) => byLag[lag], percent)),
      ]),
      note: `Chance is ${percent(1 / (runs[0]?.keys ?? 16))}. Each row sees the same number of segments; several numbers are of stages of training, one after the other.`,
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

/** As many segments, with no gradient from one to another. */
function ofHorizonOne({ trainLag, horizon, steps }: RecallStage): RecallStage {
  return { trainLag, horizon: 1, steps: steps * horizon };
}

/** The last one is that of `trainLag`, `horizon` and `steps`. */
function stagesOf({ earlier = [], trainLag, horizon, steps }: RecallSettings): readonly RecallStage[] {
  return [...earlier, { trainLag, horizon, steps }];
}

/** A number of each stage, once where it is the same in all. */
function listOf(settings: RecallSettings, value: (stage: RecallStage) => number): string {
  const values = stagesOf(settings).map(value);
  return (new Set(values).size === 1 ? values.slice(0, 1) : values).join(", then ");
}

function nameOf(settings: RecallSettings): string {
  const { model, train } = settings,
    horizon = listOf(settings, (stage) => stage.horizon);
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
