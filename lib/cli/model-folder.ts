/** From a path on the command line to a model: a model's folder, a checkpoint, or a run that holds either. */
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { CheckpointStore } from "../checkpoint/folder.ts";
import { withIoErrors } from "../checkpoint/io-error.ts";
import { findModelFolder } from "../checkpoint/model-folder.ts";
import { openTokenizer, type Tokenizer } from "../data/index.ts";
import { MemformerError } from "../errors.ts";
import { Memformer } from "../model.ts";
import { writeModel } from "../model-files.ts";
import type { DeviceName } from "../native/cuda.ts";
import { fromFile, type Given } from "./run-config.ts";

/** Names inside a run's folder. */
export const RUN = "run.json";
export const CHECKPOINTS = "checkpoints";
export const MODEL = "model";

/** The folder with config.json and weights: `path` itself, else of a run its model, else its last checkpoint. */
export async function findModel(path: string): Promise<string> {
  const holdsModel = async (folder: string): Promise<boolean> =>
    existsSync(join(await findModelFolder(folder), "config.json"));
  for (const folder of [path, join(path, MODEL)]) if (await holdsModel(folder)) return folder;
  const last = await new CheckpointStore(join(path, CHECKPOINTS)).last();
  if (last !== undefined) return last;
  throw new MemformerError(
    "IO",
    `${path} holds no model: there is neither config.json nor ${MODEL}/ nor ${CHECKPOINTS}/`,
    { details: { path } },
  );
}

/** The settings of the run that a model or a checkpoint came from, if they lie with it or in the run's folder above. */
export async function runOf(folder: string): Promise<Given | undefined> {
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
  for (const spec of specs) {
    const tokenizer = await openTokenizer(spec);
    if (tokenizer.vocabulary === model.config.vocabulary && tokenizer.bos === model.config.bos)
      return { model, tokenizer };
  }
  const { vocabulary, bos } = model.config;
  await model.dispose();
  throw new MemformerError(
    "CONFIG",
    `the model in ${folder} has vocabulary ${vocabulary} and BOS ${bos}, which ` +
      `${specs.join(" and ")} ${specs.length > 1 ? "have" : "has"} not: name its tokenizer with --tokenizer`,
    { details: { folder, vocabulary, bos } },
  );
}

/** The text of a tokenizer.json, undefined for a built-in tokenizer. */
export async function tokenizerText({ name, spec }: Tokenizer): Promise<string | undefined> {
  return name.startsWith("json:") ? await withIoErrors("read", spec, () => readFile(spec, "utf8")) : undefined;
}

/** Saves a model with all that is needed to use it elsewhere: its tokenizer and the settings of its run. */
export async function saveModel(model: Memformer, tokenizer: Tokenizer, run: Given, folder: string): Promise<void> {
  await writeModel(model, folder, await tokenizerText(tokenizer));
  const facts = join(dirname(tokenizer.spec), "tokenizer_config.json"); // names a tokenizer.json's BOS
  if (tokenizer.name.startsWith("json:") && existsSync(facts))
    await copyFile(facts, join(folder, "tokenizer_config.json"));
  await writeRun(folder, run);
}

export async function writeRun(folder: string, { run, model, train }: Given): Promise<void> {
  const path = join(folder, RUN);
  await withIoErrors("write", path, () => writeFile(path, `${JSON.stringify({ ...run, model, train }, null, 2)}\n`));
}
