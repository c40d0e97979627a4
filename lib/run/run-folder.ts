/** From a path on the command line to a model: a model's folder, a checkpoint, or a run that holds either. */
import { readFile, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { CheckpointStore } from "../checkpoint/store.ts";
import { withIoErrors } from "../io-error.ts";
import { findModelFolder, type TokenizerTexts } from "../checkpoint/model-files.ts";
import { AUXILIARY_TOKENS, openTokenizer, type Tokenizer } from "../data/index.ts";
import { MemformerError } from "../errors.ts";
import { Memformer } from "../model/memformer.ts";
import { writeModel } from "../model/weights-files.ts";
import type { DeviceName } from "../native/cuda.ts";
import { fromFile, type PartialRunConfig } from "./config.ts";
import { readIdentity, writeIdentity, type RunIdentity } from "./identity.ts";

/** Names inside a run's folder. */
export const RUN = "run.json";
export const CHECKPOINTS = "checkpoints";
export const MODEL = "model";
/** Held while a process trains the run. */
export const LOCK = ".lock";

/** A model's folder, and how far it was trained, where that is known. */
export interface FoundModel {
  readonly folder: string;
  readonly step: number | undefined;
}

/**
 * The folder with config.json and weights: `path` itself; of a run the newer, by step, of its model and its last
 * checkpoint. After a resume the model is the one from before until the run has ended again.
 */
export async function findModel(path: string): Promise<FoundModel> {
  if (await holdsModel(path)) return { folder: path, step: await stepOf(path) };
  const model = join(path, MODEL);
  const finished = (await holdsModel(model)) ? { folder: model, step: await stepOf(model) } : undefined;
  const last = await new CheckpointStore(join(path, CHECKPOINTS)).last();
  const checkpoint = last === undefined ? undefined : { folder: last, step: await stepOf(last) };
  if (finished !== undefined && checkpoint !== undefined && (checkpoint.step ?? -1) > (finished.step ?? Infinity))
    return checkpoint;
  const found = finished ?? checkpoint;
  if (found !== undefined) return found;
  throw new MemformerError(
    "IO",
    `${path} holds no model: there is neither config.json nor ${MODEL}/ nor ${CHECKPOINTS}/`,
    { details: { path } },
  );
}

async function holdsModel(folder: string): Promise<boolean> {
  return existsSync(join(await findModelFolder(folder), "config.json"));
}

/** Steps of training behind a model: a checkpoint's, those noted beside a model, or those its run was to make. */
async function stepOf(folder: string): Promise<number | undefined> {
  const place = await findModelFolder(folder);
  const trained = (await readIdentity(place))?.step;
  if (trained !== undefined) return trained;
  for (const [file, key] of [
    ["trainer.json", undefined],
    [RUN, "train"],
  ] as const) {
    const text = await readFile(join(place, file), "utf8").catch(() => undefined);
    const value = text === undefined ? undefined : (JSON.parse(text) as Record<string, unknown>);
    const step = key === undefined ? value?.["step"] : (value?.[key] as { steps?: unknown } | undefined)?.steps;
    if (typeof step === "number") return step;
  }
  return undefined;
}

/** `runs/a/model (step 1000)` */
export function modelName({ folder, step }: FoundModel): string {
  return step === undefined ? folder : `${folder} (step ${step})`;
}

/** The settings of the run that a model or a checkpoint came from, if they lie with it or in the run's folder above. */
export async function runOf(folder: string): Promise<PartialRunConfig | undefined> {
  for (const place of [folder, dirname(folder), dirname(dirname(folder))]) {
    if (existsSync(join(place, RUN))) return fromFile(join(place, RUN));
  }
  return undefined;
}

/** Loads a model with its tokenizer: the one named, its tokenizer.json, or the built-in one it was made for. */
export async function openModel(
  folder: string,
  options: { readonly tokenizer?: string | undefined; readonly device: DeviceName; readonly threads: number },
): Promise<{ model: Memformer; tokenizer: Tokenizer }> {
  const model = await Memformer.load(folder, { device: options.device, threads: options.threads });
  const own = join(await findModelFolder(folder), "tokenizer.json");
  const specs = options.tokenizer !== undefined ? [options.tokenizer] : existsSync(own) ? [own] : ["bytes", "gpt2"];
  // A checkpoint of memformer 0.1 lacks its tokenizer's configuration: the file that its run was given has it beside
  // it.
  const given = specs[0] === own ? (await runOf(folder))?.run["tokenizer"] : undefined;
  if (typeof given === "string" && existsSync(given)) specs.push(given);
  let name: string | undefined;
  for (const spec of specs) {
    const tokenizer = await openTokenizer(spec);
    const more = model.config.vocabulary - tokenizer.vocabulary, // those of auxiliary tasks, if it was trained with them
      fits = (more === 0 || more === AUXILIARY_TOKENS) && tokenizer.bos === model.config.bos;
    if (fits && (spec !== given || tokenizer.name === name)) return { model, tokenizer };
    name = tokenizer.name;
  }
  const { vocabulary, bos } = model.config;
  await model.dispose();
  throw new MemformerError(
    "CONFIG",
    `the model in ${folder} has vocabulary ${vocabulary} and BOS ${bos}, which ` +
      `${specs.join(" and ")} ${specs.length > 1 ? "do" : "does"} not have: name its tokenizer with --tokenizer`,
    { details: { folder, vocabulary, bos } },
  );
}

/** The texts of a tokenizer.json and what lies beside it; none for a built-in tokenizer. */
export async function tokenizerTexts({ name, spec }: Tokenizer): Promise<TokenizerTexts> {
  if (!name.startsWith("json:")) return {};
  const facts = join(dirname(spec), "tokenizer_config.json");
  const read = async (path: string): Promise<string> => withIoErrors("read", path, () => readFile(path, "utf8"));
  return { tokenizer: await read(spec), ...(existsSync(facts) && { tokenizerConfig: await read(facts) }) };
}

/**
 * Saves a model with all that is needed to use it elsewhere: its tokenizer, the settings and the text of its run, its
 * step.
 */
export async function saveModel(
  model: Memformer,
  folder: string,
  run: PartialRunConfig,
  {
    tokenizer,
    identity,
    step,
  }: {
    readonly tokenizer: TokenizerTexts;
    readonly identity: RunIdentity;
    readonly step: number;
  },
): Promise<void> {
  await writeModel(model, folder, tokenizer);
  await writeIdentity(folder, identity, step);
  await writeRun(folder, run);
}

export async function writeRun(folder: string, { run, model, train }: PartialRunConfig): Promise<void> {
  const path = join(folder, RUN);
  await withIoErrors("write", path, () => writeFile(path, `${JSON.stringify({ ...run, model, train }, null, 2)}\n`));
}
