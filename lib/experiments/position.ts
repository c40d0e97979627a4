/**
 * Loss by position in a document, to a million tokens: does what a state keeps go on to help, and does it stay sound?
 */
import { presets } from "../model/config.ts";
import { experiment, type Budget, type Rows } from "./experiment.ts";
import { languageModel, type LanguageSettings } from "./language-model.ts";
import { cell, mean, valuesOf, type Table } from "./report/table.ts";
import { roundText } from "./position/round-text.ts";
import { scoreByPosition, type Bin } from "./position/score.ts";
import { openText, textName } from "./text.ts";

export interface PositionSettings extends LanguageSettings {
  readonly name: string;
  /** Documents that are scored side by side, and the tokens of each. */
  readonly documents: number;
  readonly length: number;
}

export interface PositionResult {
  readonly bins: readonly Bin[];
  readonly stateBytes: number;
  readonly tokens: number;
}

type Size = Omit<PositionSettings, "text" | "seed" | "name" | "model"> & {
  readonly models: Readonly<Record<string, LanguageSettings["model"]>>;
};
const base = { ...presets.base, segmentLength: 32, precision: "bfloat16" } as const;
const tiny = { width: 32, heads: 2, feedForward: 64, segmentLength: 16 } as const;
const models = {
  Memformer: base,
  "Transformer-XL": { ...base, architecture: "transformer-xl", decoderLayers: 12, cacheLength: 512 },
  LSTM: { ...base, architecture: "lstm", decoderLayers: 4 },
} as const;
const trained = { lanes: 64, horizon: 16, rate: 2e-3, cut: 8192, documents: 8 } as const;
const sizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    models: { Memformer: { ...tiny, encoderLayers: 1, decoderLayers: 1, memorySlots: 4 } },
    lanes: 8,
    horizon: 4,
    steps: 8,
    rate: 2e-3,
    cut: 256,
    documents: 2,
    length: 1024,
  },
  minutes: { ...trained, models, steps: 610, length: 2 ** 18 },
  full: { ...trained, models, steps: 3000, length: 2 ** 20 },
};

export const position = experiment<PositionSettings, PositionResult>({
  name: "position",
  title: "Loss by position in a document",
  claim: "the memory serves for any length at constant cost; the paper shows no loss by position.",
  needs: "text (--data, --tokenizer; default: moby-dick as bytes)",
  async plan({ budget, seeds, ...spec }) {
    const { models: of, ...size } = sizes[budget],
      text = await textName(spec);
    return seeds.flatMap((seed) => Object.entries(of).map(([name, model]) => ({ ...size, name, model, text, seed })));
  },
  async run(settings, context) {
    const text = await openText(context);
    try {
      const { model: made, trained: training } = await languageModel(settings, text, context);
      await using model = made;
      const source = roundText(text.valid, settings.documents, settings.length);
      return {
        bins: await scoreByPosition(model, source, context.signal, context.note),
        stateBytes: model.stateBytes,
        tokens: training.tokens,
      };
    } finally {
      await text.close();
    }
  },
  report(runs, rows) {
    const names = [...new Set(runs.map(({ name }) => name))],
      [first] = runs,
      segment = Number(first?.model.segmentLength ?? 1);
    const ends = Array.from(
      { length: Math.ceil(Math.log2((first?.length ?? segment) / segment)) + 1 },
      (_, i) => segment * 2 ** i,
    );
    const of = (name: string): ReturnType<Rows<PositionSettings, PositionResult>>[] =>
      runs.filter((run) => run.name === name).map(rows);
    const at =
      (end: number, key: "nats" | "initialNats") =>
      ({ bins }: PositionResult): number | undefined => {
        const bin = bins.find((found) => found.end === end);
        return bin === undefined ? undefined : bin[key] / bin.tokens;
      };
    const table: Table = {
      title: "Nats a token by position",
      columns: ["tokens before", ...names.flatMap((name) => [name, `${name}, state forgotten`])],
      rows: ends.map((end, i) => [
        `${i === 0 ? 0 : ends[i - 1]!} to ${end - 1}`,
        ...names.flatMap((name) => [cell(of(name), at(end, "nats")), cell(of(name), at(end, "initialNats"))]),
      ]),
      note: `Trained on documents of at most ${first?.cut ?? 0} tokens (the mark), gradients over ${(first?.horizon ?? 0) * segment}. Held-out text of ${first?.text ?? ""}, its documents joined into ${first?.documents ?? 0} lanes that begin at places of their own; where it is shorter than the length it goes round. State forgotten: each segment from the learned start.`,
    };
    return [
      {
        title: "By position",
        tables: [table],
        charts: [
          {
            name: "position-loss",
            title: "Nats a token by position in the document",
            x: { label: "position, tokens", scale: "log" },
            y: { label: "nats a token", scale: "linear" },
            series: names.flatMap((name) =>
              (["nats", "initialNats"] as const).map((key) => ({
                name: key === "nats" ? name : `${name}, forgotten`,
                points: ends.map((end) => [end, mean(valuesOf(of(name), at(end, key)))] as const),
              })),
            ),
            marks: [{ at: first?.cut ?? NaN, label: "trained length" }],
          },
        ],
      },
    ];
  },
});
