/** The options of a run besides those of its model and training, each once, and where its settings come from. */
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { duplicateKey } from "../files/json-keys.ts";
import { withIoErrors } from "../io-error.ts";
import { modelSchema, presets, type PresetName } from "../model/config.ts";
import { documentRules } from "../data/index.ts";
import { MemformerError } from "../errors.ts";
import { deviceName } from "../native/cuda.ts";
import { withNewNames } from "../old-names.ts";
import { parseOptions } from "../options.ts";
import { trainSchema, type TrainConfig } from "../train/config.ts";
import { pick } from "./flags.ts";

export const runSchema = z.strictObject({
  data: z
    .string()
    .min(1)
    .describe("what to read: moby-dick, sotu, a text file, a folder, or NAME:FOLDER (docs/data.md)"),
  tokenizer: z.string().min(1).default("bytes").describe("bytes, gpt2, or the path of a tokenizer.json"),
  out: z
    .string()
    .min(1)
    .default("runs/train")
    .describe("folder of the run: log, checkpoints and, at the end, the model"),
  preset: z
    .enum(Object.keys(presets) as [PresetName, ...PresetName[]])
    .default("small")
    .describe("the model to start from; model options override it"),
  lanes: z.int().positive().default(16).describe("B, documents read side by side"),
  documents: z
    .enum(documentRules)
    .optional()
    .describe("what counts as a document in a text file; default: as in the data set"),
  field: z.string().min(1).optional().describe("the field of a .jsonl line that holds its text; default: text"),
  documentLimit: z
    .int()
    .positive()
    .optional()
    .describe("cut documents after this many tokens; default: only where there are fewer documents than lanes"),
  ends: z
    .boolean()
    .default(true)
    .describe("predict BOS after a document's last token, which teaches a model where to end"),
  infilling: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("share of segments to be filled in: spans of what is read are masked (encoder-decoder)"),
  recallPrevious: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("share of segments to be recalled: the one before what is read, from the memory (encoder-decoder)"),
  skipEmpty: z.boolean().default(false).describe("leave out empty documents instead of refusing them"),
  heldOut: z
    .number()
    .min(0)
    .lt(1)
    .optional()
    .describe("share to hold out of text that has no split of its own; default 0.05"),
  evaluateSegments: z.int().positive().optional().describe("segments per evaluation; default: all held-out text"),
  tensorboard: z.boolean().default(true).describe("write TensorBoard's event files"),
  device: deviceName.default("auto").describe("where to compute: auto (a GPU where there is one), cpu, cuda, cuda:N"),
  tf32: z.boolean().default(false).describe("let a GPU round the factors of float32 products to TF32"),
  deterministic: z
    .boolean()
    .default(false)
    .describe("give the same bits for the same input on a GPU too, a little slower"),
  threads: z.int().nonnegative().default(0).describe("threads of the operators; 0: one per core"),
  tokenizeThreads: z
    .int()
    .nonnegative()
    .default(0)
    .describe("threads that tokenize new text; 0: one per available core"),
});

/** Vocabulary and BOS follow from the tokenizer. */
export const shapeSchema = modelSchema.omit({ vocabulary: true, bos: true });

export interface RunSettings {
  readonly run: z.output<typeof runSchema>;
  /** What was given; the preset has the rest. */
  readonly model: z.input<typeof shapeSchema>;
  readonly train: TrainConfig;
}

/** Options by section, as a run file holds them: not complete, their values not checked. */
export interface PartialRunConfig {
  readonly run: Record<string, unknown>;
  readonly model: Record<string, unknown>;
  readonly train: Record<string, unknown>;
}

/** Sorts flat command-line values into their sections. */
export function fromFlags(flags: Readonly<Record<string, unknown>>): PartialRunConfig {
  return { run: pick(runSchema, flags), model: pick(shapeSchema, flags), train: pick(trainSchema, flags) };
}

/** Reads `{ data, lanes, …, model: {…}, train: {…} }`. Throws IO; CONFIG with an unknown key's near miss. */
export async function fromFile(path: string): Promise<PartialRunConfig> {
  // A byte order mark, which some editors write, is not part of the text.
  const text = (await withIoErrors("read", path, () => readFile(path, "utf8"))).replace(/^\ufeff/, "");
  const refuse = (words: string): never => {
    throw new MemformerError("CONFIG", `${path} ${words}`, { details: { path } });
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return refuse(`is not valid JSON: ${(error as Error).message}`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) refuse(`has the key "${twice}" twice`);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return refuse("is not an object of options");
  const fileSchema = runSchema.extend({ model: z.unknown(), train: z.unknown() }).partial();
  const { model: ofModel, train: ofTrain, ...run } = parseOptions(fileSchema, value, path),
    model = withNewNames(ofModel),
    train = withNewNames(ofTrain);
  // Parsing refuses what is unknown or wrong; what was given is kept without defaults, which must not win over others.
  parseOptions(shapeSchema, model, `${path}: model`);
  parseOptions(trainSchema, train, `${path}: train`);
  const written = Object.fromEntries(
    Object.keys(value)
      .filter((key) => key in run)
      .map((key) => [key, run[key as keyof typeof run]]),
  );
  return { run: written, model: { ...(model as object | undefined) }, train: { ...(train as object | undefined) } };
}

/** Later sources win. Throws CONFIG for values that do not fit. */
export function mergeSettings(...sources: readonly PartialRunConfig[]): RunSettings {
  const merged = (section: keyof PartialRunConfig): Record<string, unknown> =>
    Object.assign({}, ...sources.map((source) => source[section])) as Record<string, unknown>;
  const run = merged("run"),
    model = merged("model");
  if (run["data"] === undefined)
    throw new MemformerError("CONFIG", "there is no text to read: name it with --data (moby-dick, a file, a folder)");
  parseOptions(shapeSchema, model, "model");
  return {
    run: parseOptions(runSchema, run, "run"),
    model,
    train: parseOptions(trainSchema, merged("train"), "train"),
  };
}
