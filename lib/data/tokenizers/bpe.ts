// Byte-pair merging: of a word by looking through its pairs, of more in n log n, by a heap of mergeable pairs over a
// linked list of symbols.

/** The merges: the rank of a pair (the lowest goes first), and the symbol it becomes. */
export interface Merges {
  /** The rank of a pair, -1 if it never merges. */
  rank(left: number, right: number): number;
  /** The symbol a pair of this rank becomes. */
  merged(rank: number): number;
}

const few = 32; // symbols: the words of a text have fewer, and allocate nothing but their result
const fewIds = new Int32Array(few);
const fewRanks = new Int32Array(few);
const positions = 2 ** 31; // a heap entry is rank * positions + position: a double holds both exactly

/** Merges pairs until none is left: the lowest rank first, the leftmost of equals. `symbols` is left as it was. */
export function mergePairs(symbols: ArrayLike<number>, merges: Merges): number[] {
  return symbols.length <= few ? mergeFew(symbols, merges) : mergeMany(symbols, merges);
}

function mergeFew(symbols: ArrayLike<number>, merges: Merges): number[] {
  const ids = fewIds,
    ranks = fewRanks; // ranks[i]: of the pair that begins at i
  let count = symbols.length;
  for (let i = 0; i < count; i++) ids[i] = symbols[i]!;
  for (let i = 0; i + 1 < count; i++) ranks[i] = merges.rank(ids[i]!, ids[i + 1]!);
  for (;;) {
    let at = -1;
    for (let i = 0; i + 1 < count; i++) if (ranks[i]! >= 0 && (at < 0 || ranks[i]! < ranks[at]!)) at = i;
    if (at < 0) break;
    ids[at] = merges.merged(ranks[at]!);
    count--;
    for (let i = at + 1; i < count; i++) {
      ids[i] = ids[i + 1]!;
      ranks[i] = ranks[i + 1]!;
    }
    if (at > 0) ranks[at - 1] = merges.rank(ids[at - 1]!, ids[at]!);
    if (at + 1 < count) ranks[at] = merges.rank(ids[at]!, ids[at + 1]!);
  }
  const left: number[] = [];
  for (let i = 0; i < count; i++) left.push(ids[i]!);
  return left;
}

function mergeMany(symbols: ArrayLike<number>, merges: Merges): number[] {
  const count = symbols.length;
  const ids = Int32Array.from(symbols);
  const next = Int32Array.from(ids, (_, i) => i + 1); // `count` at the end
  const previous = Int32Array.from(ids, (_, i) => i - 1); // -1 at the start
  const ranks = new Int32Array(count).fill(-1); // of the pair that begins here
  const heap = new MinHeap();
  const consider = (at: number): void => {
    const right = next[at]!;
    const rank = right < count ? merges.rank(ids[at]!, ids[right]!) : -1;
    ranks[at] = rank;
    if (rank >= 0) heap.push(rank * positions + at);
  };
  for (let i = 0; i + 1 < count; i++) consider(i);
  for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
    const at = top % positions;
    const rank = (top - at) / positions;
    if (ranks[at] !== rank) continue; // one of the two has been merged meanwhile
    const right = next[at]!;
    const after = next[right]!;
    ids[at] = merges.merged(rank);
    ranks[right] = -1;
    next[at] = after;
    if (after < count) previous[after] = at;
    consider(at);
    if (previous[at]! >= 0) consider(previous[at]!);
  }
  const left: number[] = [];
  for (let i = 0; i < count; i = next[i]!) left.push(ids[i]!);
  return left;
}

/** The ranks of pairs, in a hash table of integers: a `Map` of half a million pairs takes ten times the memory. */
export class PairTable implements Merges {
  readonly #lefts: Int32Array;
  readonly #rights: Int32Array;
  readonly #ranks: Int32Array;
  readonly #merged: Int32Array;
  readonly #mask: number;

  /** Room for the ranks 0 to `capacity` - 1. */
  constructor(capacity: number) {
    const slots = 2 ** Math.ceil(Math.log2(2 * capacity + 2));
    this.#mask = slots - 1;
    this.#lefts = new Int32Array(slots);
    this.#rights = new Int32Array(slots);
    this.#ranks = new Int32Array(slots).fill(-1);
    this.#merged = new Int32Array(capacity);
  }

  /** The last rank given to a pair counts. */
  set(left: number, right: number, rank: number, merged: number): void {
    const slot = this.#slot(left, right);
    this.#lefts[slot] = left;
    this.#rights[slot] = right;
    this.#ranks[slot] = rank;
    this.#merged[rank] = merged;
  }

  rank(left: number, right: number): number {
    return this.#ranks[this.#slot(left, right)]!;
  }

  merged(rank: number): number {
    return this.#merged[rank]!;
  }

  #slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let slot = hash & this.#mask; ; slot = (slot + 1) & this.#mask) {
      if (this.#ranks[slot] === -1 || (this.#lefts[slot] === left && this.#rights[slot] === right)) return slot;
    }
  }
}

/** A binary heap of numbers. */
class MinHeap {
  readonly #values: number[] = [];

  push(value: number): void {
    const values = this.#values;
    let at = values.length;
    for (let parent = (at - 1) >> 1; at > 0 && values[parent]! > value; parent = (at - 1) >> 1) {
      values[at] = values[parent]!;
      at = parent;
    }
    values[at] = value;
  }

  pop(): number | undefined {
    const values = this.#values;
    const top = values[0];
    const last = values.pop();
    if (values.length === 0 || last === undefined) return top;
    let at = 0;
    for (let child = 1; child < values.length; child = 2 * at + 1) {
      if (child + 1 < values.length && values[child + 1]! < values[child]!) child++;
      if (values[child]! >= last) break;
      values[at] = values[child]!;
      at = child;
    }
    values[at] = last;
    return top;
  }
}
