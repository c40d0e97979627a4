/** Multi-query associative recall: how many pairs a state of so many bytes can hold. */
import { experiment, type Budget, type Section } from "./experiment.ts";
import type { Chart } from "./report/chart.ts";
import { cell, mean, percent, valuesOf, type Table } from "./report/table.ts";
import { taskAnswers, type TaskAnswers } from "./tasks/answers.ts";
import { taskModels, type TaskModels } from "./tasks/models.ts";
import { forms, mqarTask, type Form, type MqarOptions } from "./tasks/mqar.ts";
import { bestRate, familyOf, shareCell } from "./tasks/report.ts";
import type { TaskSettings } from "./tasks/train.ts";

export interface MqarSettings extends TaskSettings, MqarOptions {
  /** Unseen ones that each lane is asked. */
  readonly documents: number;
}

interface Size extends Omit<TaskSettings, "name" | "model" | "seed" | "rate"> {
  readonly models: TaskModels;
  readonly pairs: readonly number[];
  readonly keys: number;
  readonly values: number;
  readonly segmentLength: number;
  readonly rates: readonly number[];
  readonly documents: number;
}
const shape = { width: 128, heads: 4, feedForward: 256 } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    models: { shape: { width: 32, heads: 2, feedForward: 64 }, layers: [1, 1], slots: [4], caches: [16] },
    pairs: [4],
    keys: 8,
    values: 8,
    segmentLength: 8,
    lanes: 8,
    steps: 4,
    rates: [2e-3],
    documents: 1,
  },
  minutes: {
    models: { shape, layers: [1, 1], slots: [4, 32], caches: [16, 128] },
    pairs: [8, 32],
    keys: 64,
    values: 64,
    segmentLength: 16,
    lanes: 64,
    steps: 1500,
    rates: [2e-3],
    documents: 8,
  },
  full: {
    models: { shape, layers: [1, 1], slots: [1, 4, 16, 64, 256], caches: [16, 64, 256] },
    pairs: [8, 16, 32, 64, 128],
    keys: 256,
    values: 256,
    segmentLength: 16,
    lanes: 128,
    steps: 8000,
    rates: [5e-4, 2e-3],
    documents: 16,
  },
};

export const mqar = experiment<MqarSettings, TaskAnswers>({
  name: "mqar",
  title: "Associative recall by the bytes of the state",
  claim: "the memory keeps important information in a constant number of bytes. The paper does not have this task.",
  async plan({ budget, seeds }) {
    const { models, pairs, rates, ...size } = sizes[budget];
    return seeds.flatMap((seed) =>
      pairs.flatMap((count) =>
        forms.flatMap((form) =>
          rates.flatMap((rate) =>
            taskModels(models).map((model) => ({ ...size, ...model, form, pairs: count, rate, seed })),
          ),
        ),
      ),
    );
  },
  run: async (settings, context) => taskAnswers(settings, mqarTask(settings), context),
  report(runs, rows) {
    const names = [...new Set(runs.map(({ name }) => name))],
      pairs = [...new Set(runs.map((run) => run.pairs))];
    return forms.map((form): Section => {
      const of = (name: string, count: number): ReturnType<typeof bestRate<MqarSettings, TaskAnswers>> =>
        bestRate(
          runs.filter((run) => run.form === form && run.name === name && run.pairs === count),
          rows,
          ({ accuracy }) => accuracy,
        );
      return {
        title: {
          "in line": "Asked in line: a key, then its value",
          ahead: "Asked ahead: a segment of keys, then their values",
        }[form],
        tables: [tableOf(form, names, pairs, of, runs[0])],
        charts: pairs.map((count) => chartOf(form, names, count, of)),
      };
    });
  },
});

type Of = (name: string, pairs: number) => ReturnType<typeof bestRate<MqarSettings, TaskAnswers>>;

function tableOf(
  form: Form,
  names: readonly string[],
  pairs: readonly number[],
  of: Of,
  run: MqarSettings | undefined,
): Table {
  return {
    title: `Values named right, ${form}`,
    columns: ["model", "state bytes", ...pairs.flatMap((count) => [`${count} pairs`, "state forgotten", "rate"])],
    rows: names.map((name) => [
      name,
      cell(of(name, pairs[0]!).rows.slice(0, 1), ({ stateBytes }) => stateBytes, String),
      ...pairs.flatMap((count) => {
        const { rate, rows } = of(name, count);
        return [shareCell(rows, ({ accuracy }) => accuracy), shareCell(rows, ({ forgotten }) => forgotten), rate];
      }),
    ]),
    note: `Chance is ${percent(1 / (run?.values ?? 1))}. One model for each number of pairs, the best of the rates named; ${run?.steps ?? 0} steps of ${run?.lanes ?? 0} documents, segments of ${run?.segmentLength ?? 0} tokens, loss of the segments with answers alone.`,
  };
}

function chartOf(form: Form, names: readonly string[], count: number, of: Of): Chart {
  const families = [...new Set(names.map(familyOf))];
  const value = (name: string, key: "accuracy" | "stateBytes"): number =>
    mean(valuesOf(of(name, count).rows, (result) => result[key]));
  return {
    name: `mqar-${form.replace(" ", "-")}-${count}`,
    title: `${count} pairs asked ${form}`,
    x: { label: "state bytes of a row", scale: "log" },
    y: { label: "share named right", scale: "linear" },
    series: families.map((family) => ({
      name: family,
      points: names
        .filter((name) => familyOf(name) === family)
        .map((name) => [value(name, "stateBytes"), value(name, "accuracy")] as const)
        .sort(([a], [b]) => a - b),
    })),
  };
}
