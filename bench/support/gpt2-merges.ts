/** GPT-2's first merges, told by its ranks: a token is what the merges before it leave of its bytes, put together. */
import ranks from "gpt-tokenizer/bpeRanks/r50k_base";

/** The 256 bytes and the first `count` merges, spelled as a tokenizer.json does. */
export function gpt2Merges(count: number): { alphabet: string[]; pairs: [string, string][] } {
  const printable = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let moved = 256;
  const letters = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : moved++));
  const spell = (entry: string | readonly number[]): string =>
    [...(typeof entry === "string" ? Buffer.from(entry) : entry)].map((b) => letters[b]!).join("");
  const rankOf = new Map<string, number>();
  const pairs: [string, string][] = [];
  for (let rank = 0; rank < 256 + count; rank++) {
    const piece = spell(ranks[rank]!),
      symbols = [...piece];
    while (symbols.length > 2) {
      const of = (i: number): number => rankOf.get(symbols[i]! + symbols[i + 1]!) ?? Infinity;
      let best = 0;
      for (let i = 1; i + 1 < symbols.length; i++) if (of(i) < of(best)) best = i;
      symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
    }
    if (symbols.length === 2) pairs.push(symbols as [string, string]);
    rankOf.set(piece, rank);
  }
  return { alphabet: letters, pairs };
}
