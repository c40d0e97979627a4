// Natural text repeats its words: nineteen in twenty are found here and not encoded again.

/** Words of a generation; two are kept. At some 100 bytes a word, 25 MB at most. */
const generation = 1 << 17;
const longestWord = 64;

/** Remembers the ids of words. Bounded: a full generation replaces the one before, and a word in use moves along. */
export class WordCache {
  #young = new Map<string, number | readonly number[]>();
  #old = new Map<string, number | readonly number[]>();
  readonly #encode: (word: string) => readonly number[];

  constructor(encode: (word: string) => readonly number[]) {
    this.#encode = encode;
  }

  /** One id, or the ids, of a word. */
  get(word: string): number | readonly number[] {
    const young = this.#young.get(word);
    if (young !== undefined) return young;
    if (word.length > longestWord) return this.#encode(word);
    let ids = this.#old.get(word);
    if (ids === undefined) {
      const fresh = this.#encode(word);
      ids = fresh.length === 1 ? fresh[0]! : fresh;
    }
    if (this.#young.size >= generation) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(detached(word), ids);
    return ids;
  }
}

/** A copy. A part of a longer string keeps all of that string in memory as long as it lives. */
function detached(text: string): string {
  return Buffer.from(text, "utf16le").toString("utf16le");
}
