/** Table 2's models, and budgets for each: equal tokens, FLOPs, wall-clock, and FLOPs of longer training. */
import { presets } from "../../model/config.ts";
import type { Budget } from "../experiment.ts";
import { segmentFlops } from "../flops.ts";
import type { LanguageSettings } from "../language-model.ts";

export interface WikiSettings extends Omit<LanguageSettings, "steps"> {
  readonly budget: Budget;
  readonly name: string;
  /** V, of the text's tokenizer. */
  readonly vocabulary: number;
  /** Steps of training; null: as many as `seconds` have time for. */
  readonly steps: number | null;
  readonly seconds: number | null;
  /** Segments that each lane of the evaluation reads; 0: all held-out text. */
  readonly scored: number;
}

interface Model {
  readonly name: string;
  readonly model: LanguageSettings["model"];
  /** The paper's perplexity by the word, on WikiText-103. */
  readonly paper: string;
  /** Whether it is one of those that are trained for longer, too. */
  readonly longer?: boolean;
}

/** How a model is trained. */
export interface Training {
  readonly rate: number;
  readonly dropout?: number;
  readonly weightDecay?: number;
}

interface Size {
  readonly models: readonly Model[];
  readonly shape: LanguageSettings["model"];
  readonly lanes: number;
  readonly horizon: number;
  readonly cut: number;
  readonly rates: readonly number[];
  readonly tokens: number;
  readonly seconds: number;
  /**
   * FLOPs of longer training, as multiples of those of `tokens`, and the ways it is tried in: it reads a text often.
   */
  readonly longer: readonly number[];
  readonly longerTrainings: readonly Training[];
  readonly scored: number;
}

const NONE = "–";

/** Transformer-XL's perplexity in Table 2, by the tokens it keeps. */
const publishedXl: Readonly<Record<number, string>> = {
  1600: "23.95",
  1024: "23.67",
  512: "23.94",
  256: "25.39",
  128: "25.60",
  32: "27.22",
};

function memformer(layers: readonly [number, number], slots: number, paper: string, memory = true): Model {
  const [encoderLayers, decoderLayers] = layers;
  return {
    name: `Memformer ${encoderLayers} + ${decoderLayers}, ${memory ? `M ${slots}` : "without memory"}`,
    model: { encoderLayers, decoderLayers, memorySlots: slots, ...(!memory && { memory }) },
    paper,
  };
}

/** Memformer without an encoder, which the paper does not have. */
function decoder(layers: number, slots: number, memory = true): Model {
  return {
    name: `Memformer decoder ${layers}, ${memory ? `M ${slots}` : "without memory"}`,
    model: { architecture: "decoder", decoderLayers: layers, memorySlots: slots, ...(!memory && { memory }) },
    paper: NONE,
  };
}

/** The decoder that sees a cache, too. */
function cached(layers: number, slots: number, cacheLength: number): Model {
  return {
    name: `Memformer decoder ${layers}, M ${slots}, cache ${cacheLength}`,
    model: { architecture: "cached-decoder", decoderLayers: layers, memorySlots: slots, cacheLength },
    paper: NONE,
  };
}

function xl(layers: number, cacheLength: number): Model {
  return {
    name: `Transformer-XL ${layers}, cache ${cacheLength}`,
    model: { architecture: "transformer-xl", decoderLayers: layers, cacheLength },
    paper: layers === 16 ? (publishedXl[cacheLength] ?? NONE) : NONE,
  };
}

function lstm(layers: number): Model {
  return { name: `LSTM ${layers}`, model: { architecture: "lstm", decoderLayers: layers }, paper: NONE };
}

const longer = (model: Model): Model => ({ ...model, longer: true });

/** The same with segments of another length, as many lanes fewer as they are longer: a step has as many tokens. */
function segments(length: number, { name, model, paper }: Model): Model {
  return { name: `${name}, segments of ${length}`, model: { ...model, segmentLength: length }, paper };
}

const { width, heads, feedForward, segmentLength } = presets.wiki;
const shape = { width, heads, feedForward, segmentLength, precision: "bfloat16" } as const;

export const wikiSizes: Readonly<Record<Budget, Size>> = {
  smoke: {
    models: [
      memformer([1, 1], 4, NONE),
      longer(memformer([1, 1], 2, NONE)),
      memformer([1, 1], 4, NONE, false),
      longer(xl(2, 16)),
      xl(2, 32),
      lstm(2),
    ],
    shape: { width: 32, heads: 2, feedForward: 64, segmentLength: 16 },
    lanes: 8,
    horizon: 2,
    cut: 1024,
    rates: [2e-3],
    tokens: 8 * 16 * 2 * 6,
    seconds: 0.05,
    longer: [2],
    longerTrainings: [{ rate: 2e-3 }],
    scored: 8,
  },
  minutes: {
    models: [
      memformer([2, 6], 256, NONE),
      longer(memformer([2, 6], 64, NONE)),
      memformer([2, 6], 256, NONE, false),
      longer(decoder(8, 256)),
      longer(decoder(8, 64)),
      longer(decoder(8, 256, false)),
      longer(cached(8, 128, 16)),
      longer(cached(8, 256, 32)),
      longer(cached(8, 64, 128)),
      xl(8, 256),
      longer(xl(8, 128)),
      longer(xl(8, 32)),
      longer(segments(256, decoder(8, 256))),
      longer(segments(256, xl(8, 128))),
    ],
    shape,
    lanes: 32,
    horizon: 8,
    cut: 8192,
    rates: [2e-3],
    tokens: 20e6,
    seconds: 30,
    longer: [6],
    longerTrainings: [
      { rate: 2e-3 },
      { rate: 4e-3 },
      { rate: 4e-3, dropout: 0.1 },
      { rate: 4e-3, weightDecay: 0.5 },
      { rate: 4e-3, weightDecay: 0.5, dropout: 0.1 },
      { rate: 4e-3, weightDecay: 1, dropout: 0.1 },
    ],
    scored: 0,
  },
  full: {
    models: [
      memformer([4, 16], 1024, "22.74"),
      memformer([4, 12], 1024, "23.91"),
      memformer([4, 12], 512, "23.30 (layers not stated)"),
      memformer([4, 12], 1024, "25.57 (layers not stated)", false),
      decoder(16, 1024),
      ...[1600, 1024, 512, 256, 128, 32].map((cache) => xl(16, cache)),
      lstm(4),
    ],
    shape,
    lanes: 32,
    horizon: 8,
    cut: 16_384,
    rates: [1e-3, 2e-3, 4e-3],
    tokens: 100e6,
    seconds: 1800,
    longer: [],
    longerTrainings: [],
    scored: 0,
  },
};

/** What is equal for all models of a table; a number: that multiple of the FLOPs. */
export type Kind = "tokens" | "FLOPs" | "wall-clock" | number;

export function kindsOf(budget: Budget): readonly Kind[] {
  return ["tokens", "FLOPs", "wall-clock", ...wikiSizes[budget].longer];
}

/** The ways in which a model is trained for a kind. */
export function trainingsOf(budget: Budget, kind: Kind): readonly Training[] {
  const { rates, longerTrainings } = wikiSizes[budget];
  return typeof kind === "number" ? longerTrainings : rates.map((rate) => ({ rate }));
}

/** Whether a model is trained for a kind. */
export function isTrained(kind: Kind, model: Model): boolean {
  return typeof kind !== "number" || model.longer === true;
}

/** What a run's text and draws are. */
type Place = Pick<WikiSettings, "text" | "vocabulary" | "seed">;

/**
 * Of all training, by the model's own formula: model FLOPs, in which nothing counts that is computed anew. `minutes`
 * computes nothing anew where a GPU takes a window in one step (`segmentsPerStep`), as an H200 does.
 */
export function trainingFlops(
  { model, vocabulary, lanes, horizon }: Pick<WikiSettings, "model" | "vocabulary" | "lanes" | "horizon">,
  steps: number,
): number {
  return steps * lanes * horizon * segmentFlops({ ...model, vocabulary, bos: 0 } as object).training;
}

/** Equal FLOPs are those that a budget's first model has at equal tokens. */
export function wikiRun(
  budget: Budget,
  kind: Kind,
  model: Model,
  { rate, dropout, weightDecay }: Training,
  { text, vocabulary, seed }: Place,
): WikiSettings {
  const { shape: of, horizon, cut, tokens, seconds, scored, models } = wikiSizes[budget];
  const lanesOf = (given: Model): number =>
    Math.max(
      1,
      Math.round(
        (wikiSizes[budget].lanes * Number(of.segmentLength)) / Number(given.model.segmentLength ?? of.segmentLength),
      ),
    );
  const lanes = lanesOf(model);
  const options = { ...of, ...model.model, ...(dropout !== undefined && { dropout }) },
    steps = Math.max(1, Math.round(tokens / (lanes * horizon * Number(options.segmentLength))));
  const cost = (given: Model): number =>
    trainingFlops({ model: { ...of, ...given.model }, vocabulary, lanes: lanesOf(given), horizon }, 1);
  const stepsFor = (multiple: number): number =>
    Math.max(1, Math.round((multiple * steps * cost(models[0]!)) / cost(model)));
  const ofKind =
    kind === "wall-clock"
      ? { steps: null, seconds }
      : { steps: kind === "tokens" ? steps : stepsFor(kind === "FLOPs" ? 1 : kind), seconds: null };
  return {
    budget,
    name: model.name,
    model: options,
    lanes,
    horizon,
    ...ofKind,
    rate,
    ...(weightDecay !== undefined && { weightDecay }),
    cut,
    scored,
    text,
    vocabulary,
    seed,
  };
}

/** By seed, kind, training, model; a run that two tables share is one. */
export function wikiPlan(
  budget: Budget,
  seeds: readonly number[],
  text: Pick<WikiSettings, "text" | "vocabulary">,
): WikiSettings[] {
  const { models } = wikiSizes[budget];
  return seeds.flatMap((seed) =>
    kindsOf(budget).flatMap((kind) =>
      trainingsOf(budget, kind).flatMap((training) =>
        models
          .filter((model) => isTrained(kind, model))
          .map((model) => wikiRun(budget, kind, model, training, { ...text, seed })),
      ),
    ),
  );
}
