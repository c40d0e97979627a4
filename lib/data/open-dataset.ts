import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { MemformerError, nearest } from "../errors.ts";
import { prepareCorpus, type CorpusOptions } from "./corpus.ts";
import { Dataset, type Split } from "./dataset.ts";
import type { DocumentOptions } from "./documents.ts";
import { openMnist, pixels } from "./mnist.ts";
import { datasetNames, namedText, needsFolder, type DatasetName, type NamedText } from "./known-datasets.ts";
import { copiesNote, heldOutNote, readNote, unread } from "./dataset-notes.ts";
import { inWords, isLitter, textFiles, type TextFiles } from "./text-files.ts";
import { isTokenFile, openTokenFile, type TokenFile } from "./token-file.ts";
import type { TokenSource } from "./token-source.ts";
import type { TokenizeOptions } from "./tokenize.ts";
import { writeTokenized } from "./tokenize-files.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** How a data set is read. */
export interface DatasetOptions
  extends DocumentOptions, TokenizeOptions, Pick<CorpusOptions, "division" | "keep" | "seed"> {
  /**
   * Folder in which tokenized text is kept for the next time. Default `memformer/data` in `$XDG_CACHE_HOME` or
   * `~/.cache`.
   */
  readonly cache?: string;
  /** The share of tokens held out of text that has no split of its own. Default 0.05, tinyshakespeare 0.1. */
  readonly heldOut?: number;
}

/** `openDataset` of strict.ts, its options not checked for what it does not know. */
export async function openDataset(spec: string, options: DatasetOptions): Promise<Dataset> {
  const colon = spec.indexOf(":");
  const name = (colon < 0 ? spec : spec.slice(0, colon)) as DatasetName;
  if (!datasetNames.includes(name)) return openPath(spec, options);
  const folder = colon < 0 ? "" : spec.slice(colon + 1);
  if (needsFolder(name) && folder === "") {
    throw new MemformerError("DATA", `The data set ${name} is read from a folder of its files: write ${name}:FOLDER.`, {
      details: { dataset: name },
    });
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
  const splits: Partial<Record<Split, string>> = {};
  for (const name of (await readdir(path)).filter((entry) => !isLitter(entry)).sort()) {
    const split = splitFile.exec(name)?.[1]?.toLowerCase();
    if (split) splits[split.startsWith("val") ? "valid" : (split as Split)] ??= join(path, name);
  }
  if (!splits.train) return openText(path, { whole: [path], documents, notes: [] }, options);
  return openText(path, { splits, documents, notes: await unread(path, splits) }, options);
}

async function openText(spec: string, text: NamedText, options: DatasetOptions): Promise<Dataset> {
  const rules: DocumentOptions = { ...options, documents: options.documents ?? text.documents };
  const sources: Partial<Record<Split, TokenSource>> = {};
  const notes = [...text.notes];
  try {
    const own = text.splits ?? {};
    const undivided = own.train && !own.valid && !(await isTokenFile(own.train)) ? [own.train] : undefined;
    const divide = text.whole ?? undivided;
    for (const [split, path] of Object.entries(own) as [Split, string][]) {
      if (split !== "train" || !divide) sources[split] = await openSplit(spec, path, rules, options);
    }
    if (divide) {
      const heldOut = options.heldOut ?? text.heldOut ?? 0.05;
      const read = await textFiles(divide);
      if (inWords(read) || (text.whole?.[0] === spec && read.files[0] !== spec)) notes.push(readNote(read));
      const { train, valid } = await openHeldOut(spec, divide, read, { ...rules, heldOut }, options);
      Object.assign(sources, { train, ...(valid && { valid }) });
      if (valid) notes.push(heldOutNote(train, valid));
    } else refusePair(sources);
    notes.push(...copiesNote(sources));
    return new Dataset(spec, options.tokenizer, sources, notes);
  } catch (error) {
    await Promise.all(Object.values(sources).map((source) => source.close()));
    throw error;
  }
}

/**
 * @throws MemformerError `DATA` where a prepared folder's files are of two preparations: one may hold the other's text.
 */
function refusePair({ train, valid }: Partial<Record<Split, TokenSource>>): void {
  if (train === undefined || valid === undefined || arePair(train as TokenFile, valid as TokenFile)) return;
  const [a, b] = [(train as TokenFile).path, (valid as TokenFile).path];
  throw new MemformerError(
    "DATA",
    `${a} and ${b} come from two preparations, so one may hold text of the other: prepare both again.`,
    {
      details: { train: a, valid: b },
    },
  );
}

/** False only where both say of which preparation they are, and it is not the same. */
function arePair(train: TokenFile, valid: TokenFile): boolean {
  const [a, b] = [train.header.split?.corpus, valid.header.split?.corpus];
  return a === undefined || b === undefined || a === b;
}

/** Text of a split of its own: tokenized once, then found in the cache; made anew if it is damaged there. */
async function openSplit(
  spec: string,
  path: string,
  rules: DocumentOptions,
  options: DatasetOptions,
): Promise<TokenFile> {
  if (await isTokenFile(path)) return openFitting(path, options.tokenizer);
  const { tokenizer } = options;
  const cached = `${await cachePlace(spec, await textFiles(path), rules, options)}.tokens`;
  const [source] = await fromCache(
    async () => [await openFitting(cached, tokenizer)],
    async () => {
      await writeTokenized(cached, path, { ...options, ...rules });
    },
  );
  return source;
}

/** Text without a split: divided by `prepareCorpus` once, then found in the cache; both files are one thing there. */
async function openHeldOut(
  spec: string,
  inputs: readonly string[],
  read: TextFiles,
  rules: DocumentOptions & { readonly heldOut: number },
  options: DatasetOptions,
): Promise<{ train: TokenFile; valid?: TokenFile | undefined }> {
  const { tokenizer, seed = 0, division, keep } = options;
  const out = await cachePlace(spec, read, { ...rules, seed, division, keep }, options);
  const names = rules.heldOut > 0 ? ["train.tokens", "valid.tokens"] : ["train.tokens"];
  const [train, valid] = await fromCache(
    async () =>
      openAll(
        names.map((name) => join(out, name)),
        tokenizer,
      ),
    async () => {
      await prepareCorpus({ ...options, ...rules, inputs, out, seed });
    },
  );
  return { train: train!, valid };
}

/** All of the files, or none is left open. @throws as the first that fails; `DATA` if two are not a pair. */
async function openAll(paths: readonly string[], tokenizer: Tokenizer): Promise<TokenFile[]> {
  const opened = await Promise.allSettled(paths.map((path) => openFitting(path, tokenizer)));
  const files = opened.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = opened.find((result) => result.status === "rejected");
  if (failed === undefined && (files.length < 2 || arePair(files[0]!, files[1]!))) return files;
  await Promise.all(files.map((file) => file.close()));
  throw failed?.reason ?? new MemformerError("DATA", `${paths.join(" and ")} come from two preparations.`);
}

/** What is missing or damaged in the cache is made (once) and opened again. */
async function fromCache<T>(open: () => Promise<T>, make: () => Promise<void>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    const code = (error as MemformerError).code;
    if (code !== "ERR_MEMFORMER_IO" && code !== "ERR_MEMFORMER_DATA") throw error;
  }
  await make();
  return open();
}

async function openFitting(path: string, tokenizer: Tokenizer): Promise<TokenFile> {
  const file = await openTokenFile(path);
  const { name, vocabulary, bos } = file.tokenizer;
  if (name === tokenizer.name && vocabulary === tokenizer.vocabulary && bos === tokenizer.bos) return file;
  await file.close();
  throw new MemformerError("CONFIG", `${path} was made with the tokenizer "${name}", not "${tokenizer.name}".`, {
    details: { path, expected: tokenizer.name, found: name },
  });
}

/** Of the rule by which texts are divided and token files written: with another, what is in the cache is made anew. */
const cacheVersion = 2;

/**
 * A name in the cache that changes with the files' sizes and times, the tokenizer, and how documents are told apart.
 */
async function cachePlace(
  spec: string,
  { files }: TextFiles,
  rules: Partial<DatasetOptions>,
  { cache, tokenizer }: DatasetOptions,
): Promise<string> {
  const { documents, field, skipEmpty, heldOut, seed, division, keep } = rules;
  const kept = keep && [[...keep.hashes].map(String), keep.cut && [String(keep.cut.hash), keep.cut.at]];
  const key = createHash("sha256");
  key.update(
    JSON.stringify([
      cacheVersion,
      tokenizer.name,
      tokenizer.vocabulary,
      tokenizer.bos,
      documents,
      field,
      skipEmpty,
      heldOut,
      seed,
      division,
      kept,
    ]),
  );
  for (const file of files) {
    const { size, mtimeMs } = await stat(file);
    key.update(JSON.stringify([file, size, mtimeMs]));
  }
  const root = cache ?? join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "memformer", "data");
  const name = `${basename(spec)}-${tokenizer.name}`.replace(/[^\w.-]/g, "_");
  return join(root, `${name}-${key.digest("hex").slice(0, 16)}`);
}
