// Words repeat: the tokens of short pieces of text are kept, in one hash table of integers, so that a piece that is
// known is found and written without a string, an array or an iterator of its own.
import type { TokenBuffer } from "./token-buffer.ts";

const longestKept = 64; // characters
const mostKept = 1 << 16; // pieces
const slots = 2 * mostKept;
const fields = 4; // of a slot: the piece's hash, where its characters begin, where its tokens do and how many there are

/** Remembers what `encode` gives for short pieces; forgets all when it is full, for common words come back at once. */
export class PieceCache {
  readonly #encode: (piece: string) => readonly number[];
  readonly #table = new Int32Array(fields * slots);
  readonly #lengths = new Uint8Array(slots); // of the pieces, in characters; 0 for a slot that is free
  #characters = new Uint16Array(1 << 12);
  #tokens = new Int32Array(1 << 12);
  #used = { pieces: 0, characters: 0, tokens: 0 };

  constructor(encode: (piece: string) => readonly number[]) {
    this.#encode = encode;
  }

  /** Writes the tokens of characters `from` to `to`, at least one, of a text. */
  append(text: string, from: number, to: number, into: TokenBuffer): void {
    const length = to - from;
    if (length > longestKept) {
      into.pushAll(this.#encode(text.slice(from, to)));
      return;
    }
    let hash = length;
    for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x9e3779b1);
    hash ^= hash >>> 15;
    const table = this.#table,
      lengths = this.#lengths;
    let slot = hash & (slots - 1);
    for (; lengths[slot] !== 0; slot = (slot + 1) & (slots - 1)) {
      if (table[fields * slot] !== hash || lengths[slot] !== length) continue;
      if (this.#isAt(table[fields * slot + 1]!, text, from, length)) {
        const begin = table[fields * slot + 2]!;
        into.copy(this.#tokens, begin, begin + table[fields * slot + 3]!);
        return;
      }
    }
    this.#add(slot, hash, text, from, to, into);
  }

  #isAt(place: number, text: string, from: number, length: number): boolean {
    const characters = this.#characters;
    for (let i = 0; i < length; i++) if (characters[place + i] !== text.charCodeAt(from + i)) return false;
    return true;
  }

  #add(slot: number, hash: number, text: string, from: number, to: number, into: TokenBuffer): void {
    const tokens = this.#encode(text.slice(from, to)),
      length = to - from;
    into.pushAll(tokens);
    if (this.#used.pieces === mostKept) {
      this.#lengths.fill(0);
      this.#used = { pieces: 0, characters: 0, tokens: 0 };
      slot = hash & (slots - 1);
    }
    const used = this.#used;
    this.#characters = roomy(this.#characters, used.characters + length);
    this.#tokens = roomy(this.#tokens, used.tokens + tokens.length);
    this.#table.set([hash, used.characters, used.tokens, tokens.length], fields * slot);
    this.#lengths[slot] = length;
    for (let i = from; i < to; i++) this.#characters[used.characters++] = text.charCodeAt(i);
    for (let i = 0; i < tokens.length; i++) this.#tokens[used.tokens++] = tokens[i]!;
    used.pieces++;
  }
}

/** The array, or a longer one with the same beginning. */
function roomy<T extends Uint16Array | Int32Array>(array: T, length: number): T {
  if (length <= array.length) return array;
  const longer = new (array.constructor as new (length: number) => T)(Math.max(length, 2 * array.length));
  longer.set(array);
  return longer;
}
