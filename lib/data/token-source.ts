// Documents of tokens, wherever they lie. A TokenFile reads them from disk; here are the twin in memory and a view.
import { MemformerError } from "../errors.ts";
import { documentHash } from "./text-hash.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** Documents of tokens, read piece by piece. No document is empty. */
export interface TokenSource {
  /** The name, vocabulary and BOS of the tokenizer that made it. */
  readonly tokenizer: TokenizerFacts;
  readonly documents: number;
  /** Tokens of all documents, BOS not counted. */
  readonly tokens: number;
  /** UTF-8 bytes of the text behind them: the denominator of bits per byte. */
  readonly bytes: number;
  /** Tokens of one document. */
  documentLength(document: number): number;
  /** UTF-8 bytes of one document. */
  documentBytes(document: number): number;
  /**
   * The identity of a document: 64 bits of SHA-256 of its text, or of its tokens where the text is not known.
   * Absent, or undefined, where a source does not have it, as a token file of memformer 0.1.
   */
  documentHash?(document: number): bigint | undefined;
  /**
   * Tokens `from` (included) to `to` (excluded) of a document, written to the start of `into` if given.
   * @throws MemformerError `CONFIG` for a range outside the document, `DATA` or `IO` if the file is damaged or gone.
   */
  read(document: number, from: number, to: number, into?: Int32Array): Promise<Int32Array>;
  /** Gives back what it holds open. */
  close(): Promise<void>;
}

/** The facts about its tokenizer that a token file records. */
export type TokenizerFacts = Pick<Tokenizer, "name" | "vocabulary" | "bos">;

/**
 * One document on its way into a source; without `bytes`, the tokens are decoded to count them. `hash`: of its text, as
 * {@link TokenSource.documentHash}; without it, of its tokens.
 */
export type TokenDocument =
  Int32Array | { readonly tokens: ArrayLike<number>; readonly bytes: number; readonly hash?: bigint | undefined };

/** Tokens in the type that `dtypeOf` names. */
export type CompactTokens = Uint8Array | Uint16Array | Uint32Array;
/** Tokens of a document, or of a part of it: the next ones. */
export interface TokenPart {
  readonly tokens: CompactTokens;
  /** UTF-8 bytes of their text. */
  readonly bytes: number;
  /** Whether the document ends here. */
  readonly last: boolean;
}

export type Dtype = "uint8" | "uint16" | "uint32";
export const arrays = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array } as const;

/**
 * The narrowest type for a document's tokens. A BOS with the last id starts documents and is in none: bytes fit in a
 * byte.
 */
export function dtypeOf(tokenizer: TokenizerFacts): Dtype {
  const ids = idsInDocuments(tokenizer);
  return ids <= 2 ** 8 ? "uint8" : ids <= 2 ** 16 ? "uint16" : "uint32";
}

/** How many ids, from 0, a document may hold. */
export function idsInDocuments({ bos, vocabulary }: Pick<TokenizerFacts, "bos" | "vocabulary">): number {
  return bos === vocabulary - 1 ? vocabulary - 1 : vocabulary;
}

/**
 * A document's tokens in their narrow type, its bytes and its hash.
 * @throws MemformerError `DATA` if it is empty, `TOKEN_RANGE` if an id does not belong in a document.
 */
export function compact(
  document: TokenDocument,
  number: number,
  tokenizer: Tokenizer,
): { tokens: CompactTokens; bytes: number; hash: bigint } {
  const tokens = document instanceof Int32Array ? document : document.tokens;
  if (tokens.length === 0) throw emptyDocument(number);
  const ids = idsInDocuments(tokenizer);
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (Number.isInteger(token) && token >= 0 && token < ids) continue;
    throw foreignToken(token, i, number, tokenizer);
  }
  const bytes = document instanceof Int32Array ? Buffer.byteLength(tokenizer.decode(document)) : document.bytes;
  const hash = document instanceof Int32Array ? undefined : document.hash;
  return { tokens: new arrays[dtypeOf(tokenizer)](tokens), bytes, hash: hash ?? documentHash(Int32Array.from(tokens)) };
}

export function emptyDocument(document: number): MemformerError {
  return new MemformerError("DATA", `Document ${document} is empty.`, { details: { document } });
}

export function foreignToken(
  token: number,
  position: number,
  document: number,
  tokenizer: TokenizerFacts,
): MemformerError {
  return new MemformerError(
    "TOKEN_RANGE",
    `Token ${position} of document ${document} is ${token}; ` +
      `documents of tokenizer "${tokenizer.name}" hold ids from 0 to ${idsInDocuments(tokenizer) - 1}.`,
    { details: { document, position, token } },
  );
}

/** @throws MemformerError `CONFIG` unless `from` to `to` lies inside the document. */
export function checkRange(source: TokenSource, document: number, from: number, to: number, into?: Int32Array): void {
  const fail = (what: string): never => {
    throw new MemformerError("CONFIG", what, { details: { document, from, to } });
  };
  if (!Number.isInteger(document) || document < 0 || document >= source.documents) {
    fail(`There is no document ${document}: the source has ${source.documents}, counted from 0.`);
  }
  const length = source.documentLength(document);
  if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0 || from > to || to > length) {
    fail(`Tokens ${from} to ${to} are not inside document ${document}, which has ${length}.`);
  }
  if (into !== undefined && into.length < to - from) {
    fail(`\`into\` holds ${into.length} tokens, ${to - from} were asked for.`);
  }
}

/**
 * Documents held in memory: 1, 2 or 4 bytes a token.
 * @throws MemformerError `DATA` for no or an empty document, `TOKEN_RANGE` for an id outside the vocabulary.
 */
export function tokensInMemory(documents: Iterable<TokenDocument>, tokenizer: Tokenizer): TokenSource {
  const held: { tokens: CompactTokens; bytes: number; hash: bigint }[] = [];
  for (const document of documents) held.push(compact(document, held.length, tokenizer));
  if (held.length === 0) throw new MemformerError("DATA", "There are no documents.");
  const source: TokenSource = {
    tokenizer: { name: tokenizer.name, vocabulary: tokenizer.vocabulary, bos: tokenizer.bos },
    documents: held.length,
    tokens: held.reduce((sum, { tokens }) => sum + tokens.length, 0),
    bytes: held.reduce((sum, { bytes }) => sum + bytes, 0),
    documentLength: (document) => held[document]!.tokens.length,
    documentBytes: (document) => held[document]!.bytes,
    documentHash: (document) => held[document]!.hash,
    async read(document, from, to, into = new Int32Array(to - from)) {
      checkRange(source, document, from, to, into);
      into.set(held[document]!.tokens.subarray(from, to));
      return into.subarray(0, to - from);
    },
    async close() {},
  };
  return source;
}

/**
 * Documents `from` (included) to `to` (excluded) of a source, as a source. Closing the view closes what it looks at.
 */
export function documentRange(source: TokenSource, from: number, to: number): TokenSource {
  let [tokens, bytes] = [0, 0];
  for (let i = from; i < to; i++) {
    tokens += source.documentLength(i);
    bytes += source.documentBytes(i);
  }
  const view: TokenSource = {
    tokenizer: source.tokenizer,
    documents: to - from,
    tokens,
    bytes,
    documentLength: (document) => source.documentLength(from + document),
    documentBytes: (document) => source.documentBytes(from + document),
    documentHash: (document) => source.documentHash?.(from + document),
    async read(document, first, last, into) {
      checkRange(view, document, first, last, into);
      return source.read(from + document, first, last, into);
    },
    close: () => source.close(),
  };
  return view;
}
