/** The text of each token of consecutive segments, with characters that span tokens and segments whole. */
import type { TokenDecoder } from "../data/tokenizers/byte-decoder.ts";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";

/** Where a segment's tokens stand. */
interface Place {
  readonly start: number;
  readonly end: number;
  /** What the model saw before them, where it is known. */
  readonly before: { readonly source: Int32Array; readonly target: Int32Array; readonly first: boolean };
}

export class TokenTexts {
  tokenizer: Tokenizer;
  #decoder: TokenDecoder | undefined;
  #at = -1; // where the decoder stands in the document

  constructor(tokenizer: Tokenizer) {
    this.tokenizer = tokenizer;
  }

  /** A text per token. An id that the tokenizer has no text for is U+FFFD. */
  of(tokens: Int32Array, { start, end, before }: Place): string[] {
    if (this.#decoder === undefined || this.#at !== start) {
      const known = tokens === before.target && !before.first ? before.source : [];
      this.#decoder = this.tokenizer.decoder([...known].filter((id) => this.#isToken(id)));
    }
    this.#at = end;
    const decoder = this.#decoder;
    return Array.from(tokens, (token) => (this.#isToken(token) ? decoder.push([token]) : "\ufffd"));
  }

  /** What follows does not continue what came before. */
  restart(): void {
    this.#decoder = undefined;
  }

  #isToken(id: number): boolean {
    const { tokenizer } = this;
    return id >= 0 && (tokenizer.isToken?.(id) ?? id < tokenizer.vocabulary);
  }
}
