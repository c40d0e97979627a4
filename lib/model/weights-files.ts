/** Between tensors of the engine and files: models, optimizers and states to safetensors and back. */
import { modelSchema, plainOptions, type ModelConfig } from "./config.ts";
import { tensorBytes } from "../checkpoint/host-tensor.ts";
import {
  modelFiles,
  openWeights,
  readConfig,
  readTokenizer,
  writeModelFolder,
  type ModelParts,
  type TokenizerTexts,
} from "../checkpoint/model-files.ts";
import type { SafetensorsFile, TensorEntry } from "../checkpoint/safetensors.ts";
import { MemformerError } from "../errors.ts";
import { isFinite, notFinite } from "../engine/finite.ts";
import type { ModelDescription, Parameterized } from "./parameter.ts";
import { parseOptions } from "../options.ts";
import { Tensor, typedArray, type DType } from "../engine/tensor.ts";

/** The dtype weights are kept in. */
export function masterType({ precision }: ModelDescription): "float32" | "float64" {
  return precision === "float64" ? "float64" : "float32";
}

/**
 * An entry that reads its tensor from the engine when its turn comes; with `finite`, throws NOT_FINITE then for NaN and
 * infinity.
 */
export function engineEntry(
  name: string,
  dtype: DType,
  shape: readonly number[],
  tensor: () => Tensor,
  finite = false,
): TensorEntry {
  return {
    name,
    dtype,
    shape,
    async read() {
      using value = tensor();
      const [{ data }, sound] = await Promise.all([value.read(), !finite || isFinite(value)]);
      if (!sound) throw notFinite(`"${name}"`, { tensor: name });
      return new Uint8Array(data);
    },
  };
}

function modelParts(model: Parameterized, tokenizer: TokenizerTexts, finite: boolean): ModelParts {
  const dtype = masterType(model.config);
  return {
    config: { ...model.config },
    tensors: model.parameters.map(({ name, shape }) =>
      engineEntry(name, dtype, shape, () => model.ownParameter(name), finite),
    ),
    ...tokenizer,
  };
}

/**
 * The writers of a model's files, for a checkpoint that holds more. A run whose weights are not finite stops at the
 * next step's loss.
 */
export function modelWriters(model: Parameterized, tokenizer: TokenizerTexts = {}): ReturnType<typeof modelFiles> {
  return modelFiles(modelParts(model, tokenizer, false));
}

export async function writeModel(model: Parameterized, folder: string, tokenizer: TokenizerTexts = {}): Promise<void> {
  await writeModelFolder(folder, modelParts(model, tokenizer, true));
}

/** The options of a config.json; those that it is too old to name have the values of {@link plainOptions}. */
export function readDescription(found: Readonly<Record<string, unknown>>, file: string): ModelConfig {
  return parseOptions(modelSchema, { ...plainOptions, ...found }, file);
}

/** Opens the folder of a {@link Memformer}; the caller closes `weights`. */
export async function readModelFolder(
  folder: string,
): Promise<{ config: ModelConfig; weights: SafetensorsFile; tokenizer: string | undefined }> {
  return {
    config: await describedIn(folder, readDescription),
    weights: await openWeights(folder),
    tokenizer: await readTokenizer(folder),
  };
}

/** What a folder's config.json says of its model. */
export async function describedIn<Description extends ModelDescription>(
  folder: string,
  read: (found: Readonly<Record<string, unknown>>, file: string) => Description,
): Promise<Description> {
  const { format, formatVersion, ...found } = await readConfig(folder);
  return read(found, `${folder}/config.json`);
}

interface Wanted {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether it holds whole numbers; the others are weights and what is averaged of their gradients. */
  readonly whole?: boolean;
}

const FLOATING: readonly string[] = ["float64", "float32", "float16", "bfloat16"] satisfies DType[];

/** Throws MemformerError CHECKPOINT_MISMATCH, naming the first option that differs. */
export function expectConfig(folder: string, found: ModelDescription, wanted: ModelDescription): void {
  const [its, ours] = [
    new Map<string, unknown>(Object.entries(found)),
    new Map<string, unknown>(Object.entries(wanted)),
  ];
  for (const key of new Set([...ours.keys(), ...its.keys()])) {
    const [one, other] = [its.get(key), ours.get(key)];
    if (one === other || JSON.stringify(one) === JSON.stringify(other)) continue;
    const told = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? "missing"));
    throw new MemformerError(
      "CHECKPOINT_MISMATCH",
      `${folder} holds another model: its ${key} is ${told(one)}, this one's ${told(other)}`,
      { details: { path: folder, option: key, found: one, expected: other } },
    );
  }
}

/**
 * Throws MemformerError CHECKPOINT_MISMATCH when a file lacks a wanted tensor, holds one too many, or has another shape
 * for it; CHECKPOINT_FORMAT when it has whole numbers for weights, as a quantised file has.
 */
export function expectTensors(what: string, wanted: readonly Wanted[], file: SafetensorsFile): void {
  const names = new Set(file.names);
  const refuse = (sentence: string): never => {
    throw new MemformerError("CHECKPOINT_MISMATCH", `${file.path} does not fit the ${what}: ${sentence}`, {
      details: { path: file.path },
    });
  };
  for (const { name, shape, whole = false } of wanted) {
    if (!names.delete(name)) refuse(`it lacks "${name}"`);
    const { shape: found, dtype } = file.entry(name);
    if (found.join() !== shape.join())
      refuse(`"${name}" has shape [${found.join(", ")}], expected [${shape.join(", ")}]`);
    if (!whole) expectFloating(file, name, dtype);
  }
  if (names.size > 0) refuse(`it holds "${[...names][0]}", which the ${what} does not have`);
}

function expectFloating(file: SafetensorsFile, name: string, dtype: DType): void {
  if (FLOATING.includes(dtype)) return;
  throw new MemformerError(
    "CHECKPOINT_FORMAT",
    `${file.path}: tensor "${name}" is ${dtype}, but weights must be ${FLOATING.join(", ")}: quantized files are not supported`,
    { details: { path: file.path, tensor: name, dtype } },
  );
}

/**
 * Copies every wanted tensor of a file into place, after {@link expectTensors}: nothing is copied from a file that does
 * not fit. Throws NOT_FINITE for a tensor that holds NaN or infinity; those before it have been copied then.
 */
export async function assignAll(
  what: string,
  wanted: readonly Wanted[],
  file: SafetensorsFile,
  assign: (name: string, value: Tensor) => void,
): Promise<void> {
  expectTensors(what, wanted, file);
  for (const { name, whole = false } of wanted) {
    using value = await readTensor(file, name);
    if (!whole && !(await isFinite(value)))
      throw notFinite(`${file.path}: tensor "${name}"`, { path: file.path, tensor: name });
    assign(name, value);
  }
}

/** A tensor of a file, in the engine. */
export async function readTensor(file: SafetensorsFile, name: string): Promise<Tensor> {
  const { dtype, shape, data } = await file.read(name);
  const bytes = tensorBytes(dtype, shape);
  if (typeof bytes === "string")
    throw new MemformerError("CHECKPOINT_FORMAT", `${file.path}: tensor "${name}": ${bytes}`);
  return Tensor.from(
    typedArray(dtype, data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer),
    shape,
    dtype,
  );
}
