import { MemformerError } from "../../errors.ts";
import type { TextCut } from "./text-cuts.ts";
import { ByteDecoder, type TokenDecoder } from "./byte-decoder.ts";

/** Text to tokens and back. Ids run from 0 to `vocabulary` - 1. */
export interface Tokenizer {
  /**
   * The identity of a tokenizer: `bytes`, `gpt2`, `pixels`, or `json:` and twelve digits of the file's
   * SHA-256.
   */
  readonly name: string;
  /** The argument of `openTokenizer` that opens the same tokenizer again. */
  readonly spec: string;
  readonly vocabulary: number;
  /** The id that stands at a document's start; never part of a document made from text. */
  readonly bos: number;
  /**
   * The tokens of a text, without BOS or any other special token: text that spells one is text.
   * @throws MemformerError `DATA` for text that the tokenizer has no tokens for.
   */
  encode(text: string, options?: EncodeOptions): Int32Array;
  /** The same tokens, some thousands at a time, for a caller that does other work in between. Default: `encode`. */
  encodeParts?(text: string, options?: EncodeOptions): Iterable<Int32Array>;
  /**
   * Whether an id stands for a token, BOS included; ids past the vocabulary and in its gaps do not. Default: ids below
   * `vocabulary`.
   */
  isToken?(id: number): boolean;
  /**
   * A place at or after `from` where `text` may be cut, so that the tokens of both sides put together are those of the
   * whole; the text's length where there is none. Without it a document is encoded in one go.
   */
  readonly cut?: TextCut;
  /** Special tokens decode to nothing. @throws MemformerError `TOKEN_RANGE` for an id outside the vocabulary. */
  decode(tokens: Iterable<number>): string;
  /**
   * A decoder for tokens that arrive one by one; never splits a character. Its pieces, put together, are what `decode`
   * gives for all tokens. Those of `before` come first and are not told again: a token's text may depend on them.
   */
  decoder(before?: Iterable<number>): TokenDecoder;
}

/** How a text is encoded. */
export interface EncodeOptions {
  /**
   * The text goes on from earlier text: nothing is put before it where a tokenizer begins texts with a space. Default
   * false.
   */
  readonly continues?: boolean;
}

/** Parts one after the other. */
export function joined(parts: readonly Int32Array[]): Int32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Int32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * A tokenizer in which token `i` stands for `bytesOf(i)`; shared by those built on bytes. `parts`: a text's tokens,
 * some thousands at a time.
 */
export function byteTokenizer(
  facts: { readonly name: string; readonly bos: number },
  parts: (text: string) => Iterable<Int32Array>,
  bytesOf: (token: number) => Uint8Array,
  cut?: TextCut,
): Tokenizer {
  const vocabulary = facts.bos + 1;
  const nothing = new Uint8Array(0);
  const isToken = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < vocabulary;
  const checked = (token: number): Uint8Array => {
    if (token === facts.bos) return nothing;
    if (isToken(token)) return bytesOf(token);
    throw outOfVocabulary(token, facts.name, vocabulary);
  };
  return {
    ...facts,
    spec: facts.name,
    vocabulary,
    isToken,
    ...(cut && { cut }),
    encode: (text) => joined([...parts(text)]),
    encodeParts: parts,
    decode(tokens) {
      const whole = new ByteDecoder(checked);
      return whole.push(tokens) + whole.end();
    },
    decoder(before = []) {
      const decoder = new ByteDecoder(checked);
      decoder.push([...before].filter(isToken));
      return decoder;
    },
  };
}

export function outOfVocabulary(token: number, name: string, vocabulary: number): MemformerError {
  return new MemformerError(
    "TOKEN_RANGE",
    `Token ${token} is outside the vocabulary of tokenizer "${name}": ids run from 0 to ${vocabulary - 1}.`,
    { details: { token, vocabulary } },
  );
}
