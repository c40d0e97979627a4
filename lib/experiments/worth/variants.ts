/**
 * What is tried: levers by name, and variants made of them. A variant is written as levers joined by "+", each a name
 * of the table below or an option of the model or the training, `option=value`: `zero+slow`,
 * `plain+queryKeyNorm=true+horizonGrowth=0.5`.
 */
import {
  MemformerError,
  modelSchema,
  plainOptions,
  trainSchema,
  type ModelOptions,
  type TrainOptions,
} from "../../index.ts";
import { didYouMean } from "../../errors.ts";

export interface Options {
  readonly model: ModelOptions;
  readonly train: TrainOptions;
}

const model = (options: ModelOptions): Options => ({ model: options, train: {} });

/** What docs/recipe.md recommends. */
const recipe: Options = {
  model: {
    residualStart: "zero",
    forgettingBias: 0.02,
    forgettingScaled: true,
    writerValues: "normed",
    writerQueryKeyNorm: true,
    memoryGradientLimit: 2,
    queryKeyNorm: true,
  },
  train: { optimizer: "muon" },
};

/** Short names of levers. */
export const levers: Readonly<Record<string, Options>> = {
  default: model({}),
  plain: model(plainOptions),
  recipe,
  zero: model({ residualStart: "zero" }),
  balanced: model({ residualStart: "balanced" }),
  open: model({ residualStart: "zero", readStart: "scaled" }),
  mixed: model({ residualStart: "zero", readStart: "balanced" }),
  unit: model({ embeddingNorm: true }),
  small: model({ forgettingBias: 0.1 }),
  slow: model({ forgettingBias: 0.02, forgettingScaled: true }),
  large: model({ writerValueGain: 3 }),
  spread: model({ forgettingBias: 1, forgettingBiasLeast: 0.01, forgettingScaled: true }),
  qk: model({ queryKeyNorm: true }),
  wqk: model({ writerQueryKeyNorm: true }),
  sharp: model({ writerSharpness: 3 }),
  muon: { model: {}, train: { optimizer: "muon" } },
  centered: model({ writerValues: "centered" }),
  normed: model({ writerValues: "normed" }),
  gate: model({ readGate: true, readStart: "balanced" }),
  constants: model({ constantSlots: 16 }),
  damped: model({ memoryGradient: 0.7 }),
  limited: model({ memoryGradientLimit: 2 }),
  grown: { model: {}, train: { horizonGrowth: 0.5 } },
  passed: { model: {}, train: { statePassing: 0.15 } },
};

/**
 * The options of a variant; later levers win. Throws MemformerError CONFIG for a name that is neither a lever nor an
 * option.
 */
export function optionsOf(variant: string): Options {
  return variant
    .split("+")
    .map(leverOf)
    .reduce((all, { model, train }) => ({ model: { ...all.model, ...model }, train: { ...all.train, ...train } }));
}

function leverOf(name: string): Options {
  const known = Object.hasOwn(levers, name) ? levers[name] : undefined;
  if (known !== undefined) return known;
  const [key = "", value] = name.split("=");
  if (value !== undefined) {
    const given = { [key]: valueOf(value) };
    if (key in modelSchema.shape) return { model: given, train: {} };
    if (key in trainSchema.shape) return { model: {}, train: given };
  }
  const names = [...Object.keys(levers), ...Object.keys(modelSchema.shape), ...Object.keys(trainSchema.shape)];
  throw new MemformerError("CONFIG", `there is no lever "${name}"${didYouMean(key, names)}`);
}

function valueOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Options that a twin computes the same without: what only concerns what crosses segments, or the writer, which nobody
 * reads.
 */
const ofMemoryAlone = {
  model: [
    "writerValues",
    "writerQueryKeyNorm",
    "writerSharpness",
    "writerValueGain",
    "writerTemperature",
    "writerHeads",
    "writerSteps",
    "memoryGradient",
    "memoryGradientLimit",
  ],
  train: ["horizonGrowth", "statePassing"],
} as const;

/** The options that decide what a twin learns: variants that differ in the others share their twin. */
export function ofTwin({ model, train }: Options): Options {
  const without = (options: object, names: readonly string[]): object =>
    Object.fromEntries(Object.entries(options).filter(([name]) => !names.includes(name)));
  return {
    model: { ...without(model, ofMemoryAlone.model), memory: false },
    train: without(train, ofMemoryAlone.train),
  };
}
