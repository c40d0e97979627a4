// Text to two token files: one to train on, one held out.
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { MemformerError } from "../errors.ts";
import { shown, wholeNumber } from "./arguments.ts";
import type { DocumentOptions, TextDocument } from "./documents.ts";
import { Random } from "./random.ts";
import { openTokenFile } from "./token-file.ts";
import type { TokenHeader } from "./token-format.ts";
import type { TokenDocument, TokenSource } from "./token-source.ts";
import { writeTokenFile, writeTokenParts } from "./token-writer.ts";
import { tokenize, type TokenizeOptions } from "./tokenize.ts";
import { writeTokenized } from "./tokenize-files.ts";
import type { Tokenizer } from "./tokenizer.ts";

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
}

/** The token files of a corpus. */
export interface PreparedCorpus {
  readonly train: { readonly path: string; readonly header: TokenHeader };
  readonly valid?: { readonly path: string; readonly header: TokenHeader };
}

/**
 * Tokenizes text into a training and a held-out file. Whole documents are held out, drawn by `seed` until their tokens
 * reach the share; at least one, never all. A corpus of a single document is cut at a line's end instead, its tail held
 * out. Both files appear when both are whole. Text may be larger than memory.
 * @throws MemformerError as `readDocuments` and `writeTokenFile`; what the tokenizer throws, else `DATA`, naming the document; `CONFIG` for a share out of range; `ABORTED` by
 * `signal`.
 */
export async function prepareCorpus(options: CorpusOptions): Promise<PreparedCorpus> {
  const { tokenizer, out, heldOut = 0.05, seed = 0 } = options;
  if (!(typeof heldOut === "number" && heldOut >= 0 && heldOut < 1)) {
    throw new MemformerError("CONFIG", `heldOut must be a share from 0 to below 1, not ${shown(heldOut)}.`);
  }
  wholeNumber(seed, "seed", 0);
  await mkdir(out, { recursive: true }).catch(() => {}); // the next line tells why it failed
  const stage = await mkdtemp(join(out, ".preparing-")).catch((cause: unknown) => {
    throw new MemformerError(
      "IO",
      `The folder ${out} cannot be written: ${(cause as Error).message}`,
      { cause, details: { path: out } },
    );
  });
  try {
    const all = join(stage, "all.tokens");
    const single = new SingleText();
    const header = await writeTokenized(all, options.inputs, options, (document) => single.add(document));
    let headers: { train: TokenHeader; valid?: TokenHeader };
    if (heldOut === 0) {
      await rename(all, join(stage, "train.tokens"));
      headers = { train: header };
    } else if (header.documents === 1) {
      headers = await writeParts(stage, single.cut(1 - heldOut), options);
    } else {
      headers = await writeSplit(stage, all, { heldOut, seed, tokenizer });
    }
    const valid = join(out, "valid.tokens");
    if (headers.valid) await rename(join(stage, "valid.tokens"), valid);
    else await rm(valid, { force: true }); // of an earlier preparation: it would not be held out from this one
    const train = join(out, "train.tokens");
    await rename(join(stage, "train.tokens"), train);
    return {
      train: { path: train, header: headers.train },
      ...headers.valid && { valid: { path: valid, header: headers.valid } },
    };
  } finally {
    await rm(stage, { recursive: true, force: true });
  }
}

/** The documents to hold out, so many that their tokens reach the share. */
function drawHeldOut(source: TokenSource, heldOut: number, seed: number): Set<number> {
  const drawn = new Set<number>();
  let tokens = 0;
  for (const document of new Random(seed).permutation(source.documents)) {
    if (drawn.size > 0 && (tokens >= heldOut * source.tokens || drawn.size === source.documents - 1)) break;
    drawn.add(document);
    tokens += source.documentLength(document);
  }
  return drawn;
}

async function writeSplit(
  stage: string,
  all: string,
  { heldOut, seed, tokenizer }: { heldOut: number; seed: number; tokenizer: Tokenizer },
): Promise<{ train: TokenHeader; valid: TokenHeader }> {
  const source = await openTokenFile(all);
  try {
    const drawn = drawHeldOut(source, heldOut, seed);
    const part = async function* (held: boolean): AsyncGenerator<TokenDocument, void, void> {
      for (let i = 0; i < source.documents; i++) {
        if (drawn.has(i) !== held) continue;
        yield { tokens: await source.read(i, 0, source.documentLength(i)), bytes: source.documentBytes(i) };
      }
    };
    return {
      valid: await writeTokenFile(join(stage, "valid.tokens"), part(true), tokenizer),
      train: await writeTokenFile(join(stage, "train.tokens"), part(false), tokenizer),
    };
  } finally {
    await source.close();
  }
}

async function writeParts(
  stage: string,
  [head, tail]: [TextDocument, TextDocument],
  { onProgress: _, ...options }: CorpusOptions, // it has heard of this text already
): Promise<{ train: TokenHeader; valid: TokenHeader }> {
  const write = async (name: string, part: TextDocument): Promise<TokenHeader> =>
    writeTokenParts(join(stage, name), tokenize([part], part.text.length, options), options.tokenizer);
  return { valid: await write("valid.tokens", tail), train: await write("train.tokens", head) };
}

/** Keeps the first document's text until there is a second: it is needed only if it stays the only one. */
class SingleText {
  #text: string | undefined;
  #file = "";
  #number = 1;
  #seen = 0;

  add({ text, file, number }: TextDocument): void {
    this.#text = this.#seen++ === 0 ? text : undefined;
    [this.#file, this.#number] = [file, number];
  }

  /** The text cut at `share` of it, moved back to a line's end if there is one not far before. */
  cut(share: number): [TextDocument, TextDocument] {
    const text = this.#text!;
    const wanted = Math.min(Math.max(1, Math.floor(text.length * share)), text.length - 1);
    const lineEnd = text.lastIndexOf("\n", wanted - 1) + 1;
    let at = lineEnd > wanted / 2 ? lineEnd : wanted;
    if (/[\udc00-\udfff]/.test(text[at] ?? "")) at--; // not inside a surrogate pair
    if (at < 1 || text.length < 2) {
      throw new MemformerError(
        "DATA",
        `${this.#file} is too short to hold a part of it out: give more text, or heldOut 0.`,
      );
    }
    const [file, number] = [this.#file, this.#number];
    return [{ text: text.slice(0, at), file, number }, { text: text.slice(at), file, number }];
  }
}
