/** Figure 6: what slots do with each segment of a document, and how fast those forget that are overwritten. */
import { measure } from "../diagnose/measure.ts";
import { median, slotClass, type SlotClasses } from "../diagnose/statistics.ts";
import { presets } from "../model/config.ts";
import { experiment, type Budget } from "./experiment.ts";
import { languageModel, type LanguageSettings } from "./language-model.ts";
import { cell, mean, percent, valuesOf, type Table } from "./report/table.ts";
import { openText, textName } from "./text.ts";

export interface AttentionSettings extends LanguageSettings {
  /** Read of each of so many documents. */
  readonly segments: number;
  readonly texts: number;
}

/** Shares of slots, 0 to 1, and medians of ||v||; null where no slot is of that kind. */
export interface AttentionResult {
  readonly bySegment: readonly SlotClasses[];
  readonly biasNorm: Readonly<Record<keyof SlotClasses, number | null>>;
  readonly shuffledCost: number;
  readonly tokens: number;
}

const kinds = ["latching", "mixing", "overwritten"] as const satisfies readonly (keyof SlotClasses)[];
const base = { ...presets.base, segmentLength: 32, precision: "bfloat16" } as const;

const sizes: Readonly<Record<Budget, Omit<AttentionSettings, "text" | "seed">>> = {
  smoke: {
    model: {
      width: 32,
      heads: 2,
      feedForward: 64,
      encoderLayers: 1,
      decoderLayers: 1,
      memorySlots: 8,
      segmentLength: 16,
    },
    lanes: 8,
    horizon: 4,
    steps: 12,
    rate: 2e-3,
    cut: 1024,
    segments: 8,
    texts: 4,
  },
  minutes: {
    model: base,
    lanes: 64,
    horizon: 16,
    steps: 610,
    rate: 2e-3,
    cut: 8192,
    segments: 64,
    texts: 16,
  },
  full: {
    model: base,
    lanes: 64,
    horizon: 16,
    steps: 3000,
    rate: 4e-3,
    cut: 8192,
    segments: 128,
    texts: 16,
  },
};

/** The paper tells these of a model for WikiText-103. */
const published: Table = {
  title: "The paper's Figure 6, in mid-document",
  columns: ["slots that", "share", "||v||"],
  rows: [
    ["latch (weight on themselves near 1)", "60 to 80 %", "1.15"],
    ["are overwritten (read only tokens)", "5 to 10 %", "3.2"],
    ["mix", "the rest", "1.15"],
  ],
  note: "Almost all slots read tokens in the first steps of a document. Here a slot latches from a weight of 0.9 on itself, and is overwritten up to 0.1.",
};

export const attention = experiment<AttentionSettings, AttentionResult>({
  name: "attention",
  title: "What memory slots do, segment by segment",
  claim:
    "in mid-document 60 to 80 % of the slots keep what they hold, 5 to 10 % are overwritten; the latter have the larger ||v||.",
  needs: "text (--data; default: moby-dick)",
  async plan({ budget, seeds, ...spec }) {
    const text = await textName(spec);
    return seeds.map((seed) => ({ ...sizes[budget], text, seed }));
  },
  async run(settings, context) {
    const text = await openText(context);
    try {
      const made = await languageModel(settings, text, context);
      await using model = made.model;
      const { memory, slots, costs } = await measure(model, text.valid, {
        lanes: settings.texts,
        segments: settings.segments,
      });
      const norm = (kind: keyof SlotClasses): number | null => {
        const norms = slots.filter(({ selfWeight }) => slotClass(selfWeight) === kind).map(({ biasNorm }) => biasNorm);
        return norms.length === 0 ? null : median(norms);
      };
      return {
        bySegment: memory.map(({ latching, mixing, overwritten }) => ({ latching, mixing, overwritten })),
        biasNorm: { latching: norm("latching"), mixing: norm("mixing"), overwritten: norm("overwritten") },
        shuffledCost: costs.shuffled,
        tokens: made.trained.tokens,
      };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const own = runs.map(rows),
      segments = Math.max(0, ...runs.map((run) => run.segments));
    const middle = ({ bySegment }: AttentionResult, kind: keyof SlotClasses): number =>
      mean(bySegment.slice(bySegment.length >> 1).map((shares) => shares[kind]));
    const ours: Table = {
      title: "Ours: the second half of the segments, and the first",
      columns: ["slots that", "share", "in the first segment", "median ||v||"],
      rows: kinds.map((kind) => [
        { latching: "latch", mixing: "mix", overwritten: "are overwritten" }[kind],
        cell(own, (result) => middle(result, kind), percent),
        cell(own, ({ bySegment }) => bySegment[0]?.[kind], percent),
        own.some((row) => row?.result !== undefined && row.result.biasNorm[kind] === null)
          ? "no such slot"
          : cell(own, ({ biasNorm }) => biasNorm[kind]),
      ]),
      note: `Another text's memory costs ${cell(own, ({ shuffledCost }) => shuffledCost)} nats a token. ||v|| starts at the model's forgettingBias, not at the paper's 1.`,
    };
    return [
      {
        title: "Latching, mixing, overwritten",
        tables: [ours, published],
        charts: [
          {
            name: "attention-by-segment",
            title: "What slots do with a segment",
            x: { label: "segment of the document", scale: "linear" },
            y: { label: "share of the slots", scale: "linear" },
            series: kinds.map((kind) => ({
              name: kind,
              points: Array.from(
                { length: segments },
                (_, i) => [i + 1, mean(valuesOf(own, ({ bySegment }) => bySegment[i]?.[kind]))] as const,
              ),
            })),
          },
        ],
      },
    ];
  },
});
