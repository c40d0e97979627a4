import { MemformerError, nearest } from "../errors.ts";
import { cutAnywhere, type Cut } from "./text-cuts.ts";
import { ByteDecoder, type TokenDecoder } from "./byte-decoder.ts";

/** Text to tokens and back. Ids run from 0 to `vocabulary` - 1. */
export interface Tokenizer {
  /**
   * What makes two tokenizers the same: `bytes`, `gpt2`, `pixels`, or `json:` and twelve digits of the file's
   * SHA-256.
   */
  readonly name: string;
  /** What `openTokenizer` was given: opens the same one again. */
  readonly spec: string;
  readonly vocabulary: number;
  /** The id that stands at a document's start; never part of a document made from text by `bytes` or `gpt2`. */
  readonly bos: number;
  /** The tokens of a text, without BOS. */
  encode(text: string): Int32Array;
  /**
   * A place at or after `from` where `text` may be cut, so that the tokens of both sides put together are those of the
   * whole; the text's length where there is none. Without it a document is encoded in one go.
   */
  readonly cut?: Cut;
  /** BOS decodes to nothing. @throws MemformerError `TOKEN_RANGE` for an id outside the vocabulary. */
  decode(tokens: Iterable<number>): string;
  /** A decoder for tokens that arrive one by one; never splits a character. */
  decoder(): TokenDecoder;
}

/**
 * Opens a tokenizer: `"bytes"` (UTF-8 bytes; vocabulary 257 with BOS 256), `"gpt2"` (byte-pair encoding; vocabulary
 * 50,257 with BOS 50,256), or the path of a Hugging Face `tokenizer.json`.
 * @throws MemformerError `CONFIG` for an unknown name, `IO` for an unreadable file, `DATA` for one that is no
 * tokenizer.
 */
export async function openTokenizer(spec: string): Promise<Tokenizer> {
  const tokenizer = await openBySpec(spec);
  opened.set(tokenizer, { ...tokenizer });
  return tokenizer;
}

/** Every tokenizer that `openTokenizer` gave, with what it was then. */
const opened = new WeakMap<Tokenizer, Tokenizer>();

/** Whether another thread gets the same tokenizer from its spec: a user's own, or a changed one, stays where it is. */
export function opensAgain(tokenizer: Tokenizer): boolean {
  const then = opened.get(tokenizer);
  return then !== undefined && Object.entries(then).every(([key, value]) => tokenizer[key as keyof Tokenizer] === value);
}

async function openBySpec(spec: string): Promise<Tokenizer> {
  if (spec === "bytes") return bytes;
  if (spec === "gpt2") return (await import("./tokenizer-gpt2.ts")).gpt2();
  if (typeof spec === "string" && (spec.endsWith(".json") || spec.includes("/"))) {
    return (await import("./tokenizer-json.ts")).openTokenizerJson(spec);
  }
  const meant = nearest(String(spec), ["bytes", "gpt2"]);
  throw new MemformerError(
    "CONFIG",
    `Unknown tokenizer ${JSON.stringify(spec)}${meant ? `: did you mean "${meant}"?` : "."} ` +
      `Known are "bytes", "gpt2" and the path of a tokenizer.json.`,
    { details: { option: "tokenizer", found: spec } },
  );
}

/** A tokenizer in which token `i` stands for `bytesOf(i)`; shared by those built on bytes. */
export function byteTokenizer(
  facts: { readonly name: string; readonly bos: number },
  encode: (text: string) => Int32Array,
  bytesOf: (token: number) => Uint8Array,
  cut?: Cut,
): Tokenizer {
  const vocabulary = facts.bos + 1;
  const nothing = new Uint8Array(0);
  const checked = (token: number): Uint8Array => {
    if (token === facts.bos) return nothing;
    if (Number.isInteger(token) && token >= 0 && token < vocabulary) return bytesOf(token);
    throw outOfVocabulary(token, facts.name, vocabulary);
  };
  const decoder = (): TokenDecoder => new ByteDecoder(checked);
  const decode = (tokens: Iterable<number>): string => {
    const whole = decoder();
    return whole.push(tokens) + whole.end();
  };
  return { ...facts, spec: facts.name, vocabulary, encode, decode, decoder, ...cut && { cut } };
}

export function outOfVocabulary(token: number, name: string, vocabulary: number): MemformerError {
  return new MemformerError(
    "TOKEN_RANGE",
    `Token ${token} is outside the vocabulary of tokenizer "${name}": ids run from 0 to ${vocabulary - 1}.`,
    { details: { token, vocabulary } },
  );
}

const everyByte = Array.from({ length: 256 }, (_, i) => Uint8Array.of(i));

const bytes = byteTokenizer(
  { name: "bytes", bos: 256 },
  (text) => new Int32Array(Buffer.from(text, "utf8")),
  (token) => everyByte[token]!,
  cutAnywhere,
);
