/** Questions whose facts are hidden in other text, at the length of training and far beyond it. */
import { experiment, type Budget, type Section } from "./experiment.ts";
import { cell, mean, valuesOf, type Table } from "./report/table.ts";
import { taskAccuracy } from "./tasks/accuracy.ts";
import { places, questions, type Question } from "./tasks/babi-world.ts";
import { babilongTask } from "./tasks/babilong.ts";
import { taskModels, type TaskModels } from "./tasks/models.ts";
import { bestRate, shareCell } from "./tasks/report.ts";
import { taskModel, UNSEEN, type TaskSettings } from "./tasks/train.ts";
import { openText, textName } from "./text.ts";

export interface BabilongSettings extends TaskSettings {
  readonly question: Question;
  readonly text: string;
  readonly segmentLength: number;
  readonly facts: readonly [number, number];
  /** Bytes of a document in training. */
  readonly length: number;
  /** Lengths of the test, as multiples of it. */
  readonly times: readonly number[];
  /** Unseen ones of each lane. */
  readonly documents: number;
}

/** Shares, 0 to 1, of answers that are right from the first byte to the last. */
export interface BabilongResult {
  /** By multiple of the training length. */
  readonly byTimes: Readonly<Record<string, number>>;
  /** At the training length, from the learned start in place of the state. */
  readonly forgotten: number;
  readonly stateBytes: number;
  readonly parameters: number;
}

interface Size extends Omit<BabilongSettings, "name" | "model" | "seed" | "rate" | "question" | "text" | "facts"> {
  readonly models: TaskModels;
  readonly rates: readonly number[];
  readonly facts: Readonly<Record<Question, readonly [number, number]>>;
}
const facts = { qa1: [2, 10], qa2: [3, 14], qa3: [5, 20] } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    models: { shape: { width: 32, heads: 2, feedForward: 64 }, layers: [1, 1], slots: [4], caches: [16] },
    segmentLength: 64,
    facts: { qa1: [1, 2], qa2: [2, 3], qa3: [3, 5] },
    length: 256,
    times: [1, 2],
    lanes: 4,
    steps: 2,
    rates: [2e-3],
    documents: 1,
  },
  minutes: {
    models: { shape: { width: 256, heads: 4, feedForward: 1024 }, layers: [2, 2], slots: [64], caches: [512] },
    segmentLength: 64,
    facts,
    length: 1024,
    times: [1, 2, 4, 8, 16],
    lanes: 32,
    steps: 1000,
    rates: [1e-3],
    documents: 4,
  },
  full: {
    models: {
      shape: { width: 768, heads: 12, feedForward: 3072, precision: "bfloat16" },
      layers: [4, 8],
      slots: [128],
      caches: [1024],
    },
    segmentLength: 128,
    facts,
    length: 2048,
    times: [1, 2, 4, 8, 16],
    lanes: 32,
    steps: 20_000,
    rates: [3e-4, 1e-3],
    documents: 8,
  },
};

const published: Table = {
  title: "Published, BABILong (bAbI's stories in PG-19)",
  columns: ["model", "task", "length", "accuracy"],
  rows: [["ARMT on GPT-2 137 M", "qa1", "50 M tokens", "79.9 %"]],
  note: "Its authors report that RMT on GPT-2 (137 M) and Mamba (130 M), fine-tuned, solve the tasks; they print no other number here. Our stories and filler are not theirs: compare shapes, not values.",
};

export const babilong = experiment<BabilongSettings, BabilongResult>({
  name: "babilong",
  title: "Facts hidden in text",
  claim: "the memory keeps important information through many timesteps. The paper does not have this task.",
  needs: "text to hide facts in (--data, as bytes; default: moby-dick)",
  async plan({ budget, seeds, data }) {
    const { models, rates, facts: of, ...size } = sizes[budget],
      text = await textName({ data });
    await fits(data, sizes[budget]); // said before the first run
    return seeds.flatMap((seed) =>
      questions.flatMap((question) =>
        rates.flatMap((rate) =>
          taskModels(models).map((model) => ({ ...size, ...model, question, facts: of[question], text, rate, seed })),
        ),
      ),
    );
  },
  async run(settings, context) {
    const { length, times, lanes, documents } = settings,
      text = await openText({ data: context.data });
    try {
      const { model: made } = await taskModel(settings, babilongTask({ ...settings, filler: text.train }), context);
      await using model = made;
      const accuracy = async (multiple: number, forgotten: boolean): Promise<number> => {
        const task = babilongTask({ ...settings, length: multiple * length, filler: text.valid });
        const of = { lanes, documents, seed: UNSEEN, forgotten, signal: context.signal };
        return (await taskAccuracy(model, task, of)).documents;
      };
      const byTimes: Record<string, number> = {};
      for (const multiple of times) {
        byTimes[multiple] = await accuracy(multiple, false);
        context.note(`${multiple} times the length of training: ${byTimes[multiple].toFixed(3)} right`);
      }
      return {
        byTimes,
        forgotten: await accuracy(1, true),
        stateBytes: model.config.memory ? model.stateBytes : 0,
        parameters: model.parameterCount,
      };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const [first] = runs,
      times = first?.times ?? [],
      names = [...new Set(runs.map(({ name }) => name))];
    return questions.map((question): Section => {
      const of = (name: string): ReturnType<typeof bestRate<BabilongSettings, BabilongResult>> =>
        bestRate(
          runs.filter((run) => run.question === question && run.name === name),
          rows,
          ({ byTimes }) => mean(Object.values(byTimes)),
        );
      const table: Table = {
        title: `Answers of ${question} that are right`,
        columns: [
          "model",
          "rate",
          ...times.map((multiple) => `${multiple * (first?.length ?? 0)} bytes`),
          "state forgotten",
          "state bytes",
          "parameters",
        ],
        rows: names.map((name) => {
          const { rate, rows: own } = of(name);
          return [
            name,
            rate,
            ...times.map((multiple) => shareCell(own, ({ byTimes }) => byTimes[multiple])),
            shareCell(own, ({ forgotten }) => forgotten),
            cell(own.slice(0, 1), ({ stateBytes }) => stateBytes, String),
            cell(own.slice(0, 1), ({ parameters }) => parameters, String),
          ];
        }),
        note: `${{ qa1: "Where is a person?", qa2: "Where is a thing?", qa3: "Where was a thing before?" }[question]} One of ${places.length} places. Trained from nothing on documents of ${first?.length ?? 0} bytes, ${first?.steps ?? 0} steps; facts are hidden in ${first?.text ?? ""}, of the test in its held-out part. A question ends with a segment, its answer follows. Best rate: by the mean over the lengths.`,
      };
      return {
        title: question,
        tables: question === "qa1" ? [table, published] : [table],
        charts: [
          {
            name: `babilong-${question}`,
            title: `Answers of ${question} by length`,
            x: { label: "bytes of the document", scale: "log" },
            y: { label: "share right", scale: "linear" },
            series: names.map((name) => ({
              name,
              points: times.map(
                (multiple) =>
                  [
                    multiple * (first?.length ?? 0),
                    mean(valuesOf(of(name).rows, ({ byTimes }) => byTimes[multiple])),
                  ] as const,
              ),
            })),
            marks: [{ at: first?.length ?? NaN, label: "trained length" }],
          },
        ],
      };
    });
  },
});

/** Rejects with MemformerError DATA where the held-out text is shorter than the longest document. */
async function fits(data: string | undefined, { segmentLength, length, times, facts: of }: Size): Promise<void> {
  const text = await openText({ data });
  try {
    for (const [multiple, filler] of [
      [1, text.train],
      [Math.max(...times), text.valid],
    ] as const)
      babilongTask({ question: "qa1", segmentLength, length: multiple * length, facts: of.qa1, filler });
  } finally {
    await text.close();
  }
}
