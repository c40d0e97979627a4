// Tokens are runs of bytes that may end inside a character: text leaves only in whole characters.

/** Text from tokens that arrive one by one. */
export interface TokenDecoder {
  /** The text that is certain after these tokens; a character cut by the last of them waits for the next call. */
  push(tokens: Iterable<number>): string;
  /** The rest, with U+FFFD for an unfinished character. The decoder is then ready for another text. */
  end(): string;
}

/** A decoder for tokenizers in which every token stands for fixed bytes. */
export class ByteDecoder implements TokenDecoder {
  readonly #bytesOf: (token: number) => Uint8Array;
  readonly #text = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(bytesOf: (token: number) => Uint8Array) {
    this.#bytesOf = bytesOf;
  }

  push(tokens: Iterable<number>): string {
    let bytes = new Uint8Array(64);
    let length = 0;
    for (const token of tokens) {
      const piece = this.#bytesOf(token);
      if (length + piece.length > bytes.length) {
        const larger = new Uint8Array(2 * (length + piece.length));
        larger.set(bytes);
        bytes = larger;
      }
      for (let i = 0; i < piece.length; i++) bytes[length++] = piece[i]!; // pieces are a few bytes: faster than set
    }
    return this.#text.decode(bytes.subarray(0, length), { stream: true });
  }

  end(): string {
    return this.#text.decode();
  }
}
