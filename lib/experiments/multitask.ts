/**
 * What tasks beside continuation are worth: segments that are filled in, or recalled from the memory alone, as in the
 * paper's first version. The same tokens are read; models with a memory, and their twins without.
 */
import { presets } from "../model/config.ts";
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { scoreHeldOut, type HeldOut } from "./held-out.ts";
import { languageModel, type LanguageSettings } from "./language-model.ts";
import { cell, mean, NONE, valuesOf, type Table } from "./report/table.ts";
import { openText, textName } from "./text.ts";

export interface MultitaskSettings extends LanguageSettings {
  readonly name: string;
  /** Whether the memory is kept; false: the twin. */
  readonly memory: boolean;
  /** Segments that each lane of the evaluation reads; 0: all held-out text. */
  readonly scored: number;
}

/** Of continuation: held-out text has no other task. */
export interface MultitaskResult extends HeldOut {
  readonly tokens: number;
}

/** The first version draws 0.6 continuation, 0.3 infilling, 0.1 recall. */
const mixes = [
  { name: "continuation alone" },
  { name: "0.3 infilling, 0.1 recall", tasks: { infilling: 0.3, recallPrevious: 0.1 } },
  { name: "0.3 infilling", tasks: { infilling: 0.3, recallPrevious: 0 } },
  { name: "0.1 recall", tasks: { infilling: 0, recallPrevious: 0.1 } },
] as const;

type Size = Omit<MultitaskSettings, "name" | "tasks" | "memory" | "text" | "seed">;
const base = { ...presets.base, segmentLength: 32, precision: "bfloat16" } as const;
const trained = { model: base, lanes: 64, horizon: 16, rate: 2e-3, cut: 8192, scored: 0 } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    model: { ...presets.tiny, width: 32, feedForward: 64 },
    lanes: 8,
    horizon: 2,
    steps: 6,
    rate: 2e-3,
    cut: 1024,
    scored: 8,
  },
  minutes: { ...trained, steps: 610 },
  full: { ...trained, steps: 3000 },
};

const published: Table = {
  title: "The paper's first version (WikiText-103, segments of 64 tokens)",
  columns: ["tasks", "perplexity"],
  rows: [
    ["continuation alone", "21.26"],
    ["0.6 continuation, 0.3 infilling, 0.1 recall", "21.11"],
  ],
};

export const multitask = experiment<MultitaskSettings, MultitaskResult>({
  name: "multitask",
  title: "Segments that are filled in or recalled",
  claim: "training on infilling and recall beside continuation lowers the perplexity of continuation (21.26 to 21.11).",
  needs: "text (--data, --tokenizer; default: moby-dick as bytes)",
  async plan({ budget, seeds, ...spec }) {
    const text = await textName(spec);
    return seeds.flatMap((seed) =>
      mixes.flatMap((mix) => [true, false].map((memory) => ({ ...sizes[budget], ...mix, memory, text, seed }))),
    );
  },
  async run(settings, context) {
    const { model: options, memory } = settings,
      text = await openText(context);
    try {
      const twin = { ...options, ...(!memory && { memory }) };
      const { model: made, trained: training } = await languageModel({ ...settings, model: twin }, text, context);
      await using model = made;
      const { heldOut } = await scoreHeldOut(model, text.valid, settings, context);
      return { ...heldOut, tokens: training.tokens };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const [first] = runs;
    const of = (name: string, memory: boolean): ReturnType<Rows<MultitaskSettings, MultitaskResult>>[] =>
      runs.filter((run) => run.name === name && run.memory === memory).map(rows);
    const nats = (own: ReturnType<typeof of>): number => mean(valuesOf(own, (result) => result.nats));
    const ours: Table = {
      title: "Continuation of held-out text, by the tasks of training",
      columns: ["tasks", "bits per byte", "nats a token", "of the twin", "worth", "another's memory costs"],
      rows: mixes.map(({ name }) => {
        const [own, twin] = [of(name, true), of(name, false)],
          worth = nats(twin) - nats(own);
        return [
          name,
          cell(own, ({ bitsPerByte }) => bitsPerByte),
          cell(own, (result) => result.nats),
          cell(twin, (result) => result.nats),
          Number.isFinite(worth) ? worth.toFixed(3) : NONE,
          cell(own, ({ shuffledCost }) => shuffledCost),
        ];
      }),
      note: `${first?.text ?? ""}, ${first?.steps ?? 0} steps that read the same tokens, at one rate, ${first?.rate ?? 0}. Worth: the twin's nats less the model's; a twin has the same tasks and no memory.`,
    };
    return [{ title: "Tasks", tables: [ours, published] }];
  },
});
