/** What more memory slots are worth: a model of each size, and the twin that keeps none from segment to segment. */
import { evaluateSource } from "../evaluate/source.ts";
import { presets } from "../model/config.ts";
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { languageModel, type LanguageSettings } from "./language-model.ts";
import { cell, mean, valuesOf, type Table } from "./report/table.ts";
import { openText, textName } from "./text.ts";

export interface SlotsSettings extends LanguageSettings {
  readonly slots: number;
  /** Whether the memory is kept; false: the twin. */
  readonly memory: boolean;
  /** Segments that each lane of the evaluation reads; 0: all held-out text. */
  readonly scored: number;
}

export interface SlotsResult {
  readonly bitsPerByte: number;
  readonly nats: number;
  readonly perplexity: number;
  /** Of another text's memory in place of its own; null for a twin. */
  readonly shuffledNats: number | null;
  readonly stateBytes: number;
  readonly tokens: number;
}

type Size = Pick<SlotsSettings, "model" | "lanes" | "horizon" | "steps" | "rate" | "cut" | "scored"> & {
  readonly slots: readonly number[];
};
/** The number of slots is what differs. */
const { memorySlots: _, ...sizesOfBase } = presets.base;
const base = { ...sizesOfBase, segmentLength: 32, precision: "bfloat16" } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    model: { width: 32, heads: 2, feedForward: 64, encoderLayers: 1, decoderLayers: 1, segmentLength: 16 },
    slots: [1, 4],
    lanes: 8,
    horizon: 4,
    steps: 12,
    rate: 2e-3,
    cut: 1024,
    scored: 8,
  },
  minutes: {
    model: base,
    slots: [1, 8, 32, 128],
    lanes: 64,
    horizon: 16,
    steps: 610,
    rate: 2e-3,
    cut: 8192,
    scored: 0,
  },
  full: {
    model: base,
    slots: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    lanes: 64,
    horizon: 16,
    steps: 3000,
    rate: 4e-3,
    cut: 8192,
    scored: 0,
  },
};

/** From the paper's tables; perplexity. */
const published: Table = {
  title: "The paper's ablations of the number of slots (perplexity, lower is better)",
  columns: ["data, layers", "slots", "perplexity"],
  rows: [
    ...[
      ["64", "1.594"],
      ["32", "1.600"],
      ["16", "1.604"],
      ["1", "1.627"],
      ["no memory", "1.745"],
    ].map(([slots, value]) => ["MNIST, 2 + 6", slots!, value!]),
    ...[
      ["1024", "22.74"],
      ["512", "23.30"],
      ["no memory", "25.57"],
    ].map(([slots, value]) => ["WikiText-103, 4 + 16", slots!, value!]),
  ],
};

export const slots = experiment<SlotsSettings, SlotsResult>({
  name: "slots",
  title: "What more memory slots are worth",
  claim: "more slots give a lower perplexity, with less and less gain, and no memory at all is much worse.",
  needs: "text (--data; default: moby-dick)",
  async plan({ budget, seeds, ...spec }) {
    const { slots: counts, ...size } = sizes[budget],
      text = await textName(spec);
    return seeds.flatMap((seed) => [
      { ...size, text, seed, slots: counts.at(-1)!, memory: false },
      ...counts.map((count) => ({ ...size, text, seed, slots: count, memory: true })),
    ]);
  },
  async run(settings, context) {
    const { slots: memorySlots, memory, lanes, scored } = settings,
      text = await openText(context);
    try {
      const made = await languageModel(
        { ...settings, model: { ...settings.model, memorySlots, memory } },
        text,
        context,
      );
      await using model = made.model;
      const score = await evaluateSource(model, text.valid, {
        lanes,
        ...(scored > 0 && { segments: scored }),
        ablations: memory ? ["shuffled"] : [],
        signal: context.signal,
      });
      return {
        bitsPerByte: score.bitsPerByte,
        nats: score.nats / score.tokens,
        perplexity: score.perplexity,
        shuffledNats: memory ? score.ablations.shuffled!.nats / score.tokens : null,
        stateBytes: model.stateBytes,
        tokens: made.trained.tokens,
      };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const counts = [...new Set(runs.filter(({ memory }) => memory).map((run) => run.slots))],
      twins = runs.filter(({ memory }) => !memory).map(rows);
    const of = (count: number): ReturnType<Rows<SlotsSettings, SlotsResult>>[] =>
      runs.filter((run) => run.memory && run.slots === count).map(rows);
    const twin = mean(valuesOf(twins, ({ nats }) => nats)),
      worth = ({ nats }: SlotsResult): number => twin - nats;
    const line = (name: string, own: readonly ReturnType<Rows<SlotsSettings, SlotsResult>>[]): string[] => [
      name,
      cell(own, ({ stateBytes }) => stateBytes, String),
      cell(own, ({ bitsPerByte }) => bitsPerByte),
      cell(own, ({ perplexity }) => perplexity),
      cell(own, worth),
      cell(own, ({ nats, shuffledNats }) => (shuffledNats === null ? null : shuffledNats - nats)),
    ];
    const ours: Table = {
      title: "Held-out text by slots",
      columns: ["slots", "state bytes", "bits per byte", "perplexity", "worth, nats a token", "shuffled costs"],
      rows: [...counts.map((count) => line(String(count), of(count))), line("the twin, which keeps none", twins)],
      note: `Worth: how much worse the twin is. ${runs[0]?.text ?? ""}, ${runs[0]?.steps ?? 0} steps; one rate for all.`,
    };
    return [
      {
        title: "Slots",
        tables: [ours, published],
        charts: [
          {
            name: "slots-worth",
            title: "What the memory is worth by its slots",
            x: { label: "slots", scale: "log" },
            y: { label: "nats a token", scale: "linear" },
            series: [
              { name: "worth", points: counts.map((count) => [count, mean(valuesOf(of(count), worth))] as const) },
            ],
          },
        ],
      },
    ];
  },
});
