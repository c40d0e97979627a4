import type { TextDocument } from "./documents.ts";
import type { ReadCounter } from "./text-lines.ts";
import type { Passage } from "./text-passages.ts";
import type { TokenPart } from "./token-source.ts";

/** How far the tokenizing of a text is. */
export interface TokenizeProgress {
  /** Documents that are done, and the tokens and UTF-8 bytes of text so far. */
  readonly documents: number;
  readonly tokens: number;
  readonly bytes: number;
  /** The mean rate since the first byte was read. */
  readonly bytesPerSecond: number;
  /** The share of the text that is done, 0 to 1, and the seconds left by the mean rate: an estimate for gzip. */
  readonly share: number;
  readonly secondsLeft: number;
}

/** Measures by time, files read, text given to the tokenizer and tokens that came back. */
export class ProgressMeter {
  readonly #told: (progress: TokenizeProgress) => void;
  readonly #files: ReadCounter;
  readonly #began = performance.now();
  #characters = { given: 0, done: 0 };
  #done = { documents: 0, tokens: 0, bytes: 0 };
  #share = 0;

  constructor(files: ReadCounter, told: (progress: TokenizeProgress) => void) {
    this.#files = files;
    this.#told = told;
  }

  async *given(
    documents: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  ): AsyncGenerator<TextDocument, void, void> {
    for await (const document of documents) {
      this.#characters.given += document.text.length;
      yield document;
    }
  }

  /** Tells of each document that is done, and of the last passage. */
  advance(passages: readonly Passage[], parts: readonly TokenPart[]): void {
    for (const [i, { tokens, bytes, last }] of parts.entries()) {
      this.#characters.done += passages[i]!.text.length;
      this.#done.tokens += tokens.length;
      this.#done.bytes += bytes;
      if (last) this.#done.documents++;
      if (last || i === parts.length - 1) this.#told(this.#progress());
    }
  }

  #progress(): TokenizeProgress {
    const seconds = (performance.now() - this.#began) / 1000;
    const { given, done } = this.#characters,
      { read, size } = this.#files;
    const share = size === 0 ? 0 : Math.min(1, (done / given) * (read / size));
    this.#share = Math.max(this.#share, share); // what was read ahead of the first document may have looked like more
    return {
      ...this.#done,
      bytesPerSecond: seconds > 0 ? this.#done.bytes / seconds : 0,
      share: this.#share,
      secondsLeft: this.#share > 0 ? (seconds * (1 - this.#share)) / this.#share : Infinity,
    };
  }
}
