/** ListOps: the value of a long nested expression, read segment by segment. */
import { experiment, type Budget } from "./experiment.ts";
import { cell, type Table } from "./report/table.ts";
import { taskAnswers, type TaskAnswers } from "./tasks/answers.ts";
import { listOpsTask, type ListOpsOptions } from "./tasks/listops.ts";
import { taskModels, type TaskModels } from "./tasks/models.ts";
import { bestRate, shareCell } from "./tasks/report.ts";
import type { TaskSettings } from "./tasks/train.ts";

export interface ListOpsSettings extends TaskSettings, ListOpsOptions {
  /** Unseen ones of each lane. */
  readonly documents: number;
}

interface Size extends Omit<TaskSettings, "name" | "model" | "seed" | "rate">, ListOpsOptions {
  readonly models: TaskModels;
  readonly rates: readonly number[];
  readonly documents: number;
}
const arena = { least: 500, most: 2000, depth: 10, operands: 10, segmentLength: 128, lanes: 32 } as const;
const models: TaskModels = {
  shape: { width: 256, heads: 4, feedForward: 1024 },
  layers: [2, 2],
  slots: [32],
  caches: [512],
};
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    models: { shape: { width: 32, heads: 2, feedForward: 64 }, layers: [1, 1], slots: [4], caches: [16] },
    least: 10,
    most: 30,
    depth: 3,
    operands: 4,
    segmentLength: 16,
    lanes: 8,
    steps: 4,
    rates: [2e-3],
    documents: 2,
  },
  minutes: { ...arena, models, steps: 1000, rates: [1e-3], documents: 32 },
  full: { ...arena, models: { ...models, slots: [32, 128] }, steps: 15_000, rates: [5e-4, 1e-3], documents: 64 },
};

/** Tay et al., Long Range Arena (2021), table 1; Gu et al., S4 (2022). */
const published: Table = {
  title: "Published, Long Range Arena's ListOps",
  columns: ["model", "accuracy"],
  rows: [
    ["Transformer", "36.4 %"],
    ["Performer", "18.0 %"],
    ["Reformer", "37.3 %"],
    ["S4", "59.6 %"],
  ],
  note: "On the arena's own expressions, with attention to all of them; ours are drawn alike, and read segment by segment.",
};

export const listops = experiment<ListOpsSettings, TaskAnswers>({
  name: "listops",
  title: "The value of a nested expression",
  claim: "the memory serves long sequences. The paper does not have this task.",
  async plan({ budget, seeds }) {
    const { models: of, rates, ...size } = sizes[budget];
    return seeds.flatMap((seed) =>
      rates.flatMap((rate) => taskModels(of).map((model) => ({ ...size, ...model, rate, seed }))),
    );
  },
  run: async (settings, context) => taskAnswers(settings, listOpsTask(settings), context),
  report(runs, rows) {
    const [first] = runs;
    const table: Table = {
      title: "Values named right",
      columns: ["model", "rate", "accuracy", "state forgotten", "state bytes", "parameters"],
      rows: [...new Set(runs.map(({ name }) => name))].map((name) => {
        const { rate, rows: own } = bestRate(
          runs.filter((run) => run.name === name),
          rows,
          ({ accuracy }) => accuracy,
        );
        return [
          name,
          rate,
          shareCell(own, ({ accuracy }) => accuracy),
          shareCell(own, ({ forgotten }) => forgotten),
          cell(own.slice(0, 1), ({ stateBytes }) => stateBytes, String),
          cell(own.slice(0, 1), ({ parameters }) => parameters, String),
        ];
      }),
      note: `Expressions of ${first?.least ?? 0} to ${first?.most ?? 0} tokens, depth at most ${first?.depth ?? 0}; ${first?.steps ?? 0} steps of ${first?.lanes ?? 0} fresh ones. State forgotten: the answer from the last segment and the learned start.`,
    };
    return [{ title: "ListOps", tables: [table, published] }];
  },
});
