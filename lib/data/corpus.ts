// Text to two token files: one to train on, one held out.
import { createHash } from "node:crypto";
import { mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../files/make-folder.ts";
import { MemformerError } from "../errors.ts";
import { shown, wholeNumber } from "./arguments.ts";
import { cutPlace, cutPlaceInOrder, divide, divideInOrder, type Countable } from "./divide.ts";
import { readDocuments, type DocumentOptions, type TextDocument } from "./documents.ts";
import { documentHash } from "./text-hash.ts";
import { openTokenFile } from "./token-file.ts";
import type { TokenHeader, TokenSplit } from "./token-format.ts";
import { compact, type TokenPart } from "./token-source.ts";
import { writeTokenParts } from "./token-writer.ts";
import { tokenize, type TokenizeOptions } from "./tokenize.ts";
import { writeTokenized } from "./tokenize-files.ts";

/** How a corpus is prepared. */
export interface CorpusOptions extends DocumentOptions, TokenizeOptions {
  /** Files and folders. */
  readonly inputs: string | readonly string[];
  /** The folder for `train.tokens` and `valid.tokens`; made if missing. */
  readonly out: string;
  /** The share of tokens to hold out, 0 to below 1; 0 writes no `valid.tokens`. Default 0.05. */
  readonly heldOut?: number;
  /** Which documents are held out. Default 0. */
  readonly seed?: number;
  /**
   * How documents are drawn: by their content, or in an order drawn by `seed`, as memformer 0.1 did. Default `content`.
   */
  readonly division?: "content" | "order" | undefined;
  /** Hold out what an earlier preparation did, as far as it is there, whatever `heldOut` and `seed` would draw. */
  readonly keep?: HeldOutTexts | undefined;
}

/** The record of what a preparation held out, so that a later one of more text can hold out the same. */
export interface HeldOutTexts {
  /** Of documents held out whole: see {@link TokenSource.documentHash}. */
  readonly hashes: ReadonlySet<bigint>;
  /** The document, by its hash, of which the end alone was held out, from this character on. */
  readonly cut?: { readonly hash: bigint; readonly at: number } | undefined;
}

/** The token files of a corpus. */
export interface PreparedCorpus {
  readonly train: { readonly path: string; readonly header: TokenHeader };
  readonly valid?: { readonly path: string; readonly header: TokenHeader };
}

/** `prepareCorpus` of strict.ts, its options not checked for what it does not know. */
export async function prepareCorpus(options: CorpusOptions): Promise<PreparedCorpus> {
  const { out, heldOut = 0.05, seed = 0 } = options;
  if (!(typeof heldOut === "number" && heldOut >= 0 && heldOut < 1)) {
    throw new MemformerError("CONFIG", `heldOut must be a share from 0 to below 1, got ${shown(heldOut)}`);
  }
  wholeNumber(seed, "seed", 0);
  const stage = await makeFolder(out)
    .then(() => mkdtemp(join(out, ".preparing-")))
    .catch((cause: unknown) => {
      throw new MemformerError("IO", `The folder ${out} cannot be written: ${(cause as Error).message}`, {
        cause,
        details: { path: out },
      });
    });
  try {
    const all = join(stage, "all.tokens");
    const header = await writeTokenized(all, options.inputs, options);
    let headers: { train: TokenHeader; valid?: TokenHeader };
    if (heldOut === 0) {
      await rename(all, join(stage, "train.tokens"));
      headers = { train: header };
    } else {
      headers = await writeSplit(stage, all, { ...options, heldOut, seed });
    }
    const valid = join(out, "valid.tokens");
    if (headers.valid) await rename(join(stage, "valid.tokens"), valid);
    else await rm(valid, { force: true }); // of an earlier preparation: it would not be held out from this one
    const train = join(out, "train.tokens");
    await rename(join(stage, "train.tokens"), train);
    return {
      train: { path: train, header: headers.train },
      ...(headers.valid && { valid: { path: valid, header: headers.valid } }),
    };
  } finally {
    await rm(stage, { recursive: true, force: true });
  }
}

/** Divides the documents of `all` into the two files of a preparation. */
async function writeSplit(
  stage: string,
  all: string,
  options: CorpusOptions & { heldOut: number; seed: number },
): Promise<{
  train: TokenHeader;
  valid: TokenHeader;
}> {
  const { heldOut, seed, tokenizer, keep } = options;
  const source = await openTokenFile(all);
  try {
    const hashOf = (document: number): bigint => source.documentHash(document)!;
    const countable = Array.from({ length: source.documents }, (_, i) => ({
      hash: hashOf(i),
      tokens: source.documentLength(i),
    }));
    const { held, cut } = (keep && (await kept(options, keep, countable))) ?? (await drawn(options, countable));
    const split: TokenSplit = {
      corpus: createHash("sha256")
        .update(JSON.stringify([source.header.content, heldOut, seed]))
        .digest("hex"),
      ...(cut && { cut: { hash: hex(cut.hash), at: cut.at } }),
    };
    const { onProgress: _, ...quietly } = options; // it has heard of this text already
    const part = async function* (valid: boolean, hashes: bigint[]): AsyncGenerator<readonly TokenPart[], void, void> {
      for (const [i, { hash, tokens }] of countable.entries()) {
        if (hash === cut?.hash) {
          const text = valid ? cut.document.text.slice(cut.at) : cut.document.text.slice(0, cut.at);
          hashes.push(documentHash(text));
          yield* tokenize([{ ...cut.document, text }], text.length, quietly);
        } else if (held(i) === valid) {
          hashes.push(hash);
          const whole = { tokens: await source.read(i, 0, tokens), bytes: source.documentBytes(i), hash };
          yield [{ ...compact(whole, i, tokenizer), last: true }];
        }
      }
    };
    const write = async (name: string, valid: boolean): Promise<TokenHeader> => {
      const hashes: bigint[] = [];
      return writeTokenParts(join(stage, name), part(valid, hashes), tokenizer, hashes, split);
    };
    return { valid: await write("valid.tokens", true), train: await write("train.tokens", false) };
  } finally {
    await source.close();
  }
}

/** Whether a document, by its number, is held out whole, and the text of one that is cut. */
interface Halves {
  readonly held: (document: number) => boolean;
  readonly cut?: { readonly hash: bigint; readonly document: TextDocument; readonly at: number } | undefined;
}

async function drawn(
  options: CorpusOptions & { heldOut: number; seed: number },
  documents: readonly Countable[],
): Promise<Halves> {
  const { heldOut, seed, division = "content" } = options;
  const inOrder = division === "order";
  if (inOrder && documents.length > 1) {
    const numbers = divideInOrder(
      documents.map(({ tokens }) => tokens),
      heldOut,
      seed,
    );
    return { held: (document) => numbers.has(document) };
  }
  const { held, cut } = divide(documents, heldOut, seed);
  const among =
    (hashes: ReadonlySet<bigint>) =>
    (document: number): boolean =>
      hashes.has(documents[document]!.hash);
  if (cut === undefined) return { held: among(held) };
  const document = await textOf(options, cut.hash, documents),
    { text, file } = document;
  const at = inOrder ? cutPlaceInOrder(text, heldOut) : cutPlace(text, cut.share);
  if (at !== undefined) return { held: among(held), cut: { hash: cut.hash, document, at } };
  const whole = new Set([...held, cut.hash]);
  if (documents.some(({ hash }) => !whole.has(hash))) return { held: among(whole) };
  throw new MemformerError("DATA", `${file} is too short to hold a part of it out: give more text, or heldOut 0.`, {
    details: { path: file },
  });
}

/** What an earlier preparation held out, as far as it is still there; undefined if nothing is. */
async function kept(
  options: CorpusOptions,
  keep: HeldOutTexts,
  documents: readonly Countable[],
): Promise<Halves | undefined> {
  const { cut, hashes } = keep;
  const held = (document: number): boolean => hashes.has(documents[document]!.hash);
  if (cut !== undefined && documents.some(({ hash }) => hash === cut.hash)) {
    return { held, cut: { ...cut, document: await textOf(options, cut.hash, documents) } };
  }
  return documents.some((_, i) => held(i)) ? { held } : undefined;
}

/** The text of a document that has been counted: read again, for it is not kept. */
async function textOf(options: CorpusOptions, hash: bigint, documents: readonly Countable[]): Promise<TextDocument> {
  const place = documents.findIndex((document) => document.hash === hash);
  let i = 0;
  for await (const document of readDocuments(options.inputs, options)) {
    if (i++ < place) continue;
    if (documentHash(document.text) === hash) return document;
    break;
  }
  throw new MemformerError(
    "DATA",
    `The text of ${shown(options.inputs)} changed while it was being prepared: start again.`,
  );
}

function hex(hash: bigint): string {
  return hash.toString(16).padStart(16, "0");
}
