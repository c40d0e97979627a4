// The work of one thread: a few texts to compact tokens. Worker threads and the calling thread run this very code.
import { arrays, dtypeOf, idsInDocuments, type CompactTokens } from "./token-source.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** Tokens of several texts one after another, how many each has, and the UTF-8 bytes of each text. */
export interface EncodedBatch {
  readonly tokens: CompactTokens;
  readonly counts: Uint32Array;
  readonly bytes: Uint32Array;
  /** Why the text after the last of `counts` could not be encoded; those behind it were not tried. */
  readonly failure?: EncodeFailure;
}

/** What a tokenizer threw, as it crosses threads, or an id of its that belongs in no document, and where. */
export type EncodeFailure =
  | { readonly thrown: unknown; readonly at?: number } // `at`: the text's number, where none came before it
  | { readonly token: number; readonly position: number };

/** Encodes the texts, up to the first that fails. `onText` is told the number of each before it is begun. */
export function encodeBatch(
  texts: readonly string[],
  tokenizer: Tokenizer,
  onText?: (number: number) => void,
): EncodedBatch {
  const encoded: ArrayLike<number>[] = [];
  const bytes: number[] = [];
  let failure: EncodeFailure | undefined;
  for (const [number, text] of texts.entries()) {
    onText?.(number);
    try {
      const tokens = tokenizer.encode(text);
      failure = foreign(tokens, idsInDocuments(tokenizer));
      if (failure) break;
      encoded.push(tokens);
      bytes.push(Buffer.byteLength(text));
    } catch (thrown) {
      failure = { thrown };
      break;
    }
  }
  const tokens = new arrays[dtypeOf(tokenizer)](encoded.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of encoded) {
    tokens.set(part, at);
    at += part.length;
  }
  const counts = Uint32Array.from(encoded, ({ length }) => length);
  return { tokens, counts, bytes: Uint32Array.from(bytes), ...(failure && { failure }) };
}

function foreign(tokens: ArrayLike<number>, ids: number): EncodeFailure | undefined {
  for (let position = 0; position < tokens.length; position++) {
    const token = tokens[position]!;
    if (!(Number.isInteger(token) && token >= 0 && token < ids)) return { token, position };
  }
  return undefined;
}
