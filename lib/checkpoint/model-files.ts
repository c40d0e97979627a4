/**
 * A model as users share it: a folder of `model.safetensors`, `config.json` and perhaps `tokenizer.json` with its
 * `tokenizer_config.json`. Saving over
 * an older model swaps whole folders: the old one becomes the hidden sibling `.<name>.old`, the new one takes its
 * place, the old one goes. A kill between the two renames leaves only `.<name>.old`: reading then reads that, and the
 * next saving takes its place.
 */
import { readdir, readFile, readlink, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { MemformerError } from "../errors.ts";
import { withNewNames } from "../old-names.ts";
import { fillFolder, sweepPartials, syncFolder, type FileWriter } from "../files/atomic.ts";
import { errnoOf, withIoErrors } from "../io-error.ts";
import { openSafetensors, writeSafetensors, type SafetensorsFile, type TensorEntry } from "./safetensors.ts";

export const FORMAT = "memformer";
export const FORMAT_VERSION = 1;

const CONFIG = "config.json";
const WEIGHTS = "model.safetensors";
const TOKENIZER = "tokenizer.json";
const TOKENIZER_CONFIG = "tokenizer_config.json";
const MAX_CONFIG_BYTES = 16_000_000;

/** The contents of `config.json`: two fields of ours, and those of whoever saved it. */
export interface ConfigFile extends Readonly<Record<string, unknown>> {
  readonly format: typeof FORMAT;
  readonly formatVersion: typeof FORMAT_VERSION;
}

/** The tokenizer files that are saved with a model. */
export interface TokenizerTexts {
  /** The text of a `tokenizer.json`. */
  readonly tokenizer?: string | undefined;
  /** The text of the `tokenizer_config.json` beside it, which names its BOS. */
  readonly tokenizerConfig?: string | undefined;
}

export interface ModelParts extends TokenizerTexts {
  /** JSON values; `format` and `formatVersion` are added. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: Iterable<TensorEntry>;
}

/** The writers of a model's files, for {@link writeModelFolder} and for checkpoints, which hold a model and more. */
export function modelFiles(parts: ModelParts): Record<string, FileWriter> {
  const ours = { format: FORMAT, formatVersion: FORMAT_VERSION };
  const config = Object.assign({ ...ours }, parts.config, ours);
  const files: Record<string, FileWriter> = {
    [CONFIG]: (path) => writeFile(path, `${JSON.stringify(config, null, 2)}\n`),
    [WEIGHTS]: (path) => writeSafetensors(path, parts.tensors, { format: FORMAT }),
  };
  const { tokenizer, tokenizerConfig } = parts;
  if (tokenizer !== undefined) files[TOKENIZER] = (path) => writeFile(path, tokenizer);
  if (tokenizerConfig !== undefined) files[TOKENIZER_CONFIG] = (path) => writeFile(path, tokenizerConfig);
  return files;
}

/**
 * Saves a model to `folder`, whole or not at all, replacing a model that is there; other files beside it move along.
 * Throws CHECKPOINT_FORMAT if `folder` holds something else than a model (nothing is touched then), IO for the disk.
 */
export async function writeModelFolder(folder: string, parts: ModelParts): Promise<void> {
  const target = await followLink(resolve(folder));
  const old = oldPath(target);
  // Left by a saving killed at its very end; without a new folder beside it, it is the model, and stays until the swap.
  if (await exists(target)) await withIoErrors("write", target, () => clearOld(target, old));
  await refuseForeign(target);
  await fillFolder(target, modelFiles(parts), async (partial) => {
    await sweepPartials(dirname(target), basename(target));
    await rename(target, old).catch(ignoreMissing);
    await rename(partial, target).catch(async (error: unknown) => {
      await rename(old, target).catch(() => undefined);
      throw error;
    });
    await syncFolder(dirname(target));
    await clearOld(target, old);
  });
}

/** Reads and checks `config.json`. Throws CHECKPOINT_FORMAT, CHECKPOINT_VERSION, or IO. */
export async function readConfig(folder: string): Promise<ConfigFile> {
  const path = join(await findModelFolder(folder), CONFIG);
  const text = await withIoErrors("read", path, async () => {
    const { size } = await stat(path);
    return size > MAX_CONFIG_BYTES ? "" : (await readFile(path, "utf8")).replace(/^\ufeff/, ""); // no byte order mark
  });
  const fail = (words: string): never => {
    throw new MemformerError("CHECKPOINT_FORMAT", `${path} ${words}`, { details: { path } });
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return fail("is not valid JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return fail("is valid JSON, but not an object");
  }
  const { format, formatVersion } = value as Record<string, unknown>;
  if (format !== FORMAT) {
    return fail(`is not of a memformer model: its format is ${quote(format)}, expected "${FORMAT}"`);
  }
  if (formatVersion !== FORMAT_VERSION) {
    const newer = typeof formatVersion === "number" && formatVersion > FORMAT_VERSION;
    throw new MemformerError(
      "CHECKPOINT_VERSION",
      `${path} has format version ${quote(formatVersion)}, but this memformer reads version ${FORMAT_VERSION}` +
        `${newer ? "; a newer memformer wrote it" : ""}`,
      { details: { path, expected: FORMAT_VERSION, got: formatVersion } },
    );
  }
  return withNewNames(value as ConfigFile);
}

/** Opens the weights; the caller closes them. Throws as {@link openSafetensors} does. */
export async function openWeights(folder: string): Promise<SafetensorsFile> {
  return await openSafetensors(join(await findModelFolder(folder), WEIGHTS));
}

/** The text of the model's `tokenizer.json`, or undefined if it has none. Throws IO. */
export async function readTokenizer(folder: string): Promise<string | undefined> {
  const path = join(await findModelFolder(folder), TOKENIZER);
  return await withIoErrors("read", path, async () => {
    try {
      return await readFile(path, "utf8");
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return undefined;
      throw error;
    }
  });
}

/** Where the model of `folder` lies now: there, or under its old name if a saving was killed between two renames. */
export async function findModelFolder(folder: string): Promise<string> {
  const target = await followLink(resolve(folder));
  return !(await exists(target)) && (await exists(oldPath(target))) ? oldPath(target) : target;
}

function oldPath(target: string): string {
  return join(dirname(target), `.${basename(target)}.old`);
}

/** A link to a folder stays a link: what it points to is replaced. After a kill it may point to nothing for now. */
async function followLink(path: string): Promise<string> {
  return await realpath(path).catch(() =>
    readlink(path).then(
      (to) => resolve(dirname(path), to),
      () => path,
    ),
  );
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

/** Moves what is not ours from the old folder to the new one, then removes the old one. */
async function clearOld(target: string, old: string): Promise<void> {
  const ours = new Set([CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG]);
  const names = (await readdir(old).catch(ignoreMissing)) ?? [];
  for (const name of names) {
    if (!ours.has(name)) await rename(join(old, name), join(target, name));
  }
  await rm(old, { recursive: true, force: true });
}

async function refuseForeign(target: string): Promise<void> {
  const names = await withIoErrors("read", target, async () => (await readdir(target).catch(ignoreMissing)) ?? []);
  if (names.length === 0) return;
  try {
    await readConfig(target);
  } catch (error) {
    if (error instanceof MemformerError && error.code === "ERR_MEMFORMER_CHECKPOINT_VERSION") return;
    throw new MemformerError(
      "CHECKPOINT_FORMAT",
      `${target} is not empty and does not hold a memformer model; nothing was changed: choose another folder or empty this one`,
      { details: { path: target }, cause: error },
    );
  }
}

function ignoreMissing(error: unknown): undefined {
  if (errnoOf(error) !== "ENOENT") throw error;
  return undefined;
}

function quote(value: unknown): string {
  return value === undefined ? "missing" : JSON.stringify(value).slice(0, 80);
}
