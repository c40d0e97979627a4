import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { MemformerError, nearest } from "../errors.ts";
import { prepareCorpus, type CorpusOptions } from "./corpus.ts";
import { Dataset, type Split } from "./dataset.ts";
import { textFiles, type DocumentOptions } from "./documents.ts";
import { openMnist, pixels } from "./mnist.ts";
import { datasetNames, namedText, needsFolder, type DatasetName, type NamedText } from "./named.ts";
import { isTokenFile, openTokenFile } from "./token-file.ts";
import type { TokenSource } from "./token-source.ts";
import type { TokenizeOptions } from "./tokenize.ts";
import { writeTokenized } from "./tokenize-files.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** How a data set is read. */
export interface DatasetOptions extends DocumentOptions, TokenizeOptions, Pick<CorpusOptions, "seed"> {
  /**
   * Folder in which tokenized text is kept for the next time. Default `memformer/data` in `$XDG_CACHE_HOME` or
   * `~/.cache`.
   */
  readonly cache?: string;
  /** The share of tokens held out of text that has no split of its own. Default 0.05, tinyshakespeare 0.1. */
  readonly heldOut?: number;
}

/**
 * Opens a data set: a name (`moby-dick`, `sotu`), a name with the folder of its files (`tinyshakespeare:DIR`,
 * `wikitext-103:DIR`, `wikitext-103-raw:DIR`, `mnist:DIR`), a text file, or a folder. A folder with files called train,
 * valid (or validation, val) and test has these splits; of any other text, documents are held out.
 * A folder with the `train.tokens` and `valid.tokens` of `prepareCorpus` is opened as it is.
 * @throws MemformerError `DATA` for an unknown name, a missing package or file, text that is refused; `CONFIG` for a
 * tokenizer that does not fit; `IO` for what cannot be read or written.
 */
export async function openDataset(spec: string, options: DatasetOptions): Promise<Dataset> {
  const colon = spec.indexOf(":");
  const name = (colon < 0 ? spec : spec.slice(0, colon)) as DatasetName;
  if (!datasetNames.includes(name)) return openPath(spec, options);
  const folder = colon < 0 ? "" : spec.slice(colon + 1);
  if (needsFolder(name) && folder === "") {
    throw new MemformerError(
      "DATA",
      `The data set ${name} is read from a folder with its files: write ${name}:FOLDER.`,
      { details: { dataset: name } },
    );
  }
  if (name !== "mnist") return openText(spec, await namedText(name, folder), options);
  if (options.tokenizer.name === "bytes" || options.tokenizer === pixels) return openMnist(spec, folder);
  throw new MemformerError(
    "CONFIG",
    `mnist has pixels for tokens: take the tokenizer "bytes", not "${options.tokenizer.name}".`,
  );
}

const splitFile = /^(?:.*\.)?(train|valid|validation|val|test)\.(?:txt|text|md|jsonl|tokens)(?:\.gz)?$/i;

async function openPath(path: string, options: DatasetOptions): Promise<Dataset> {
  const found = await stat(path).catch(() => undefined);
  if (!found) {
    const meant = nearest(path.split(":")[0]!, datasetNames);
    throw new MemformerError(
      "DATA",
      `There is no file, folder or data set "${path}"${meant ? `: did you mean "${meant}"?` : "."} ` +
        `Known data sets are ${datasetNames.join(", ")}.`,
      { details: { dataset: path } },
    );
  }
  const documents = options.documents ?? "formfeed";
  if (!found.isDirectory()) return openText(path, { whole: [path], documents, notes: [] }, options);
  const names = await readdir(path);
  const splits: Partial<Record<Split, string>> = {};
  for (const name of names.sort()) {
    const split = splitFile.exec(name)?.[1]?.toLowerCase();
    if (split) splits[split.startsWith("val") ? "valid" : split as Split] ??= join(path, name);
  }
  if (!splits.train) return openText(path, { whole: [path], documents, notes: [] }, options);
  return openText(path, { splits, documents, notes: [] }, options);
}

async function openText(spec: string, text: NamedText, options: DatasetOptions): Promise<Dataset> {
  const rules: DocumentOptions = { ...options, documents: options.documents ?? text.documents };
  const sources: Partial<Record<Split, TokenSource>> = {};
  const notes = [...text.notes];
  try {
    const own = text.splits ?? {};
    const undivided = own.train && !own.valid && !await isTokenFile(own.train) ? [own.train] : undefined;
    const divide = text.whole ?? undivided;
    for (const [split, path] of Object.entries(own) as [Split, string][]) {
      if (split !== "train" || !divide) sources[split] = await openSplit(spec, path, rules, options);
    }
    if (divide) {
      const heldOut = options.heldOut ?? text.heldOut ?? 0.05;
      Object.assign(sources, await openHeldOut(spec, divide, { ...rules, heldOut }, options));
      if (heldOut > 0) notes.push(`${heldOut} of the text is held out for validation`);
    }
    return new Dataset(spec, options.tokenizer, sources, notes);
  } catch (error) {
    await Promise.all(Object.values(sources).map((source) => source.close()));
    throw error;
  }
}

/** Text of a split of its own: tokenized once, then found in the cache. */
async function openSplit(
  spec: string,
  path: string,
  rules: DocumentOptions,
  options: DatasetOptions,
): Promise<TokenSource> {
  if (await isTokenFile(path)) return openFitting(path, options.tokenizer);
  const { tokenizer } = options;
  const cached = `${await cachePlace(spec, [path], rules, options)}.tokens`;
  if (!await isTokenFile(cached)) {
    await writeTokenized(cached, path, { ...options, ...rules });
  }
  return openFitting(cached, tokenizer);
}

/** Text without a split: divided by `prepareCorpus` once, then found in the cache. */
async function openHeldOut(
  spec: string,
  inputs: readonly string[],
  rules: DocumentOptions & { readonly heldOut: number },
  options: DatasetOptions,
): Promise<{ train: TokenSource; valid?: TokenSource }> {
  const { tokenizer, seed = 0 } = options;
  const out = await cachePlace(spec, inputs, { ...rules, seed }, options);
  const [train, valid] = [join(out, "train.tokens"), join(out, "valid.tokens")];
  if (!await isTokenFile(train)) await prepareCorpus({ ...options, ...rules, inputs, out, seed });
  return {
    train: await openFitting(train, tokenizer),
    ...rules.heldOut > 0 && { valid: await openFitting(valid, tokenizer) },
  };
}

async function openFitting(path: string, tokenizer: Tokenizer): Promise<TokenSource> {
  const file = await openTokenFile(path);
  const { name, vocabulary, bos } = file.tokenizer;
  if (name === tokenizer.name && vocabulary === tokenizer.vocabulary && bos === tokenizer.bos) return file;
  await file.close();
  throw new MemformerError("CONFIG", `${path} was made with the tokenizer "${name}", not "${tokenizer.name}".`, {
    details: { path, expected: tokenizer.name, found: name },
  });
}

/**
 * A name in the cache that changes with the files' sizes and times, the tokenizer, and how documents are told apart.
 */
async function cachePlace(
  spec: string,
  inputs: readonly string[],
  rules: Partial<DatasetOptions>,
  { cache, tokenizer }: DatasetOptions,
): Promise<string> {
  const { documents, field, skipEmpty, heldOut, seed } = rules;
  const key = createHash("sha256");
  key.update(JSON.stringify([tokenizer.name, documents, field, skipEmpty, heldOut, seed]));
  for (const file of await textFiles(inputs)) {
    const { size, mtimeMs } = await stat(file);
    key.update(JSON.stringify([file, size, mtimeMs]));
  }
  const root = cache ?? join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "memformer", "data");
  const name = `${basename(spec)}-${tokenizer.name}`.replace(/[^\w.-]/g, "_");
  return join(root, `${name}-${key.digest("hex").slice(0, 16)}`);
}
