/** How far gradients have to travel: the same tokens a step, cut into windows of another number of segments. */
import { presets } from "../model/config.ts";
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { scoreHeldOut, type HeldOut } from "./held-out.ts";
import { languageModel, type LanguageSettings } from "./language-model.ts";
import { cell, mean, valuesOf, type Table } from "./report/table.ts";
import { openText, textName } from "./text.ts";

export interface HorizonSettings extends LanguageSettings {
  /** Segments that each lane of the evaluation reads; 0: all held-out text. */
  readonly scored: number;
}

export interface HorizonResult extends HeldOut {
  readonly tokens: number;
  readonly tokensPerSecond: number | null;
}

type Size = Omit<HorizonSettings, "text" | "seed" | "horizon" | "accumulate"> & {
  readonly horizons: readonly number[];
};
const base = { ...presets.base, segmentLength: 32, precision: "bfloat16" } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    model: { ...presets.tiny, width: 32, feedForward: 64 },
    horizons: [1, 2],
    lanes: 8,
    steps: 8,
    rate: 2e-3,
    cut: 1024,
    scored: 8,
  },
  minutes: { model: base, horizons: [1, 4, 16], lanes: 64, steps: 610, rate: 2e-3, cut: 8192, scored: 0 },
  full: { model: base, horizons: [1, 2, 4, 8, 16, 32], lanes: 64, steps: 1500, rate: 2e-3, cut: 8192, scored: 0 },
};

const published: Table = {
  title: "The paper's first version (WikiText-103, segments of 64 tokens)",
  columns: ["horizon", "perplexity"],
  rows: [
    ["1", "the worst"],
    ["32", "hardly better than shorter ones"],
  ],
  note: "A figure without numbers: horizon 1 is worst, and the gain is almost gone at 32.",
};

export const horizon = experiment<HorizonSettings, HorizonResult>({
  name: "horizon",
  title: "How many segments gradients travel through",
  claim: "a longer horizon gives a lower perplexity: horizon 1 is worst, the gain is almost gone at 32.",
  needs: "text (--data, --tokenizer; default: moby-dick as bytes)",
  async plan({ budget, seeds, ...spec }) {
    const { horizons, ...size } = sizes[budget],
      most = Math.max(...horizons),
      text = await textName(spec);
    return seeds.flatMap((seed) =>
      horizons.map((count) => ({ ...size, horizon: count, accumulate: most / count, text, seed })),
    );
  },
  async run(settings, context) {
    const text = await openText(context);
    try {
      const { model: made, trained } = await languageModel(settings, text, context);
      await using model = made;
      const { heldOut } = await scoreHeldOut(model, text.valid, settings, context);
      return {
        ...heldOut,
        tokens: trained.tokens,
        tokensPerSecond: Number.isFinite(trained.tokensPerSecond) ? trained.tokensPerSecond : null,
      };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const horizons = [...new Set(runs.map((run) => run.horizon))];
    const of = (count: number): ReturnType<Rows<HorizonSettings, HorizonResult>>[] =>
      runs.filter((run) => run.horizon === count).map(rows);
    const [first] = runs;
    const ours: Table = {
      title: "Held-out text by horizon",
      columns: [
        "horizon",
        "windows a step",
        "bits per byte",
        "nats a token",
        "another's memory costs",
        "tokens a second",
      ],
      rows: horizons.map((count) => [
        String(count),
        String(Math.max(...horizons) / count),
        cell(of(count), ({ bitsPerByte }) => bitsPerByte),
        cell(of(count), ({ nats }) => nats),
        cell(of(count), ({ shuffledCost }) => shuffledCost),
        cell(
          of(count),
          ({ tokensPerSecond }) => tokensPerSecond,
          (value) => value.toFixed(0),
        ),
      ]),
      note: `${first?.text ?? ""}, ${first?.steps ?? 0} steps of the same number of tokens at one rate, ${first?.rate ?? 0}; gradients of a step's windows add up.`,
    };
    return [
      {
        title: "Horizon",
        tables: [ours, published],
        charts: [
          {
            name: "horizon-bits",
            title: "Held-out text by horizon",
            x: { label: "horizon, segments", scale: "log" },
            y: { label: "bits per byte", scale: "linear" },
            series: [
              {
                name: "Memformer",
                points: horizons.map(
                  (count) => [count, mean(valuesOf(of(count), ({ bitsPerByte }) => bitsPerByte))] as const,
                ),
              },
            ],
          },
        ],
      },
    ];
  },
});
