// Byte-pair encoding of one word. `@huggingface/tokenizers` merges with a heap of linked nodes and looks pairs up by a
// JSON text; words are short, so scanning arrays of ids is about ten times as fast.

/** What is read of a tokenizer.json's `model`. */
export interface BytePairModel {
  readonly type?: string;
  readonly merges?: readonly (string | readonly [string, string])[];
  readonly end_of_word_suffix?: string | null;
  readonly continuing_subword_prefix?: string | null;
  readonly continuing_subword_suffix?: string | null;
  readonly ignore_merges?: boolean;
}

/** The ids of a word, or undefined where the word needs the package itself. */
export type WordEncoder = (word: string) => number[] | undefined;

/** A longer word goes to the package's heap: scanning takes time by the square of the length. */
const longestWord = 256;

/** The encoder of a BPE model, or undefined for a model with more to it than merges. */
export function bytePairEncoder(model: BytePairModel, ids: ReadonlyMap<string, number>): WordEncoder | undefined {
  const affix = model.end_of_word_suffix || model.continuing_subword_prefix || model.continuing_subword_suffix;
  if (model.type !== "BPE" || affix || model.merges === undefined) return undefined;
  const merges = new MergeTable(model.merges.length);
  for (const [rank, merge] of model.merges.entries()) {
    const [left = "", right = ""] = typeof merge === "string" ? merge.split(" ", 2) : merge;
    const [a, b, merged] = [ids.get(left), ids.get(right), ids.get(left + right)];
    if (a === undefined || b === undefined || merged === undefined) return undefined;
    merges.set(a, b, rank, merged);
  }
  return (word) => {
    if (word.length > longestWord) return undefined;
    const whole = model.ignore_merges ? ids.get(word) : undefined;
    if (whole !== undefined) return [whole];
    const symbols: number[] = [];
    for (const character of word) {
      const id = ids.get(character);
      if (id === undefined) return undefined;
      symbols.push(id);
    }
    return merge(symbols, merges);
  };
}

/** Merges the pair of the lowest rank, the leftmost of equals, until none is left. Changes `symbols`. */
function merge(symbols: number[], merges: MergeTable): number[] {
  const slots = symbols.map((symbol, i) => i + 1 < symbols.length ? merges.find(symbol, symbols[i + 1]!) : -1);
  for (;;) {
    let best = -1;
    for (let i = 0; i + 1 < symbols.length; i++) {
      if (slots[i]! >= 0 && (best < 0 || merges.rank(slots[i]!) < merges.rank(slots[best]!))) best = i;
    }
    if (best < 0) return symbols;
    symbols[best] = merges.merged(slots[best]!);
    symbols.splice(best + 1, 1);
    slots.splice(best + 1, 1);
    slots[best] = best + 1 < symbols.length ? merges.find(symbols[best]!, symbols[best + 1]!) : -1;
    if (best > 0) slots[best - 1] = merges.find(symbols[best - 1]!, symbols[best]!);
  }
}

/** A hash table from a pair of ids to the merge's rank and its id; of a pair given twice the last rank counts. */
class MergeTable {
  readonly #cells: Int32Array; // four a slot: left id + 1 (0: free), right id, rank, merged id
  readonly #mask: number;

  constructor(count: number) {
    const slots = 2 ** Math.ceil(Math.log2(2 * count + 2));
    this.#cells = new Int32Array(4 * slots);
    this.#mask = slots - 1;
  }

  set(left: number, right: number, rank: number, merged: number): void {
    this.#cells.set([left + 1, right, rank, merged], 4 * this.#slot(left, right));
  }

  /** The slot of a pair, -1 for one that does not merge. */
  find(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#cells[4 * slot] === 0 ? -1 : slot;
  }

  rank(slot: number): number {
    return this.#cells[4 * slot + 2]!;
  }

  merged(slot: number): number {
    return this.#cells[4 * slot + 3]!;
  }

  #slot(left: number, right: number): number {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;
    for (slot = (slot ^ (slot >>> 15)) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const held = this.#cells[4 * slot]!;
      if (held === 0 || (held === left + 1 && this.#cells[4 * slot + 1] === right)) return slot;
    }
  }
}
