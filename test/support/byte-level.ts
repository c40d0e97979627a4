/** A byte-level BPE tokenizer.json without Python: merges learned from a text, the most frequent pair first. */

/** Text of a tokenizer.json with the 256 bytes and `count` merges, fewer where the text has no more. */
export function byteLevelJson(sample: string, count: number, changes: object = {}): string {
  const letters = byteLetters();
  const words = new Map<string, number>();
  for (const [word] of sample.matchAll(/ ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+/gu)) {
    words.set(word, (words.get(word) ?? 0) + 1);
  }
  const spelled = [...words].map(([word, times]) => ({
    times,
    symbols: [...Buffer.from(word)].map((b) => letters[b]!),
  }));
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const pairs = new Map<string, number>();
    for (const { times, symbols } of spelled) {
      for (let i = 0; i + 1 < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + times);
      }
    }
    const best = [...pairs].reduce((a, b) => (b[1] > a[1] ? b : a), ["", 1] as [string, number]);
    if (best[0] === "") break;
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    for (const { symbols } of spelled) {
      for (let i = 0; i + 1 < symbols.length; i++) {
        if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
      }
    }
  }
  return tokenizerJson(letters, merges, changes);
}

/** Text of a tokenizer.json whose model has `alphabet`, `merges` and what the merges make. */
export function tokenizerJson(
  alphabet: readonly string[],
  merges: readonly (readonly [string, string])[],
  changes: object = {},
): string {
  const pieces = new Set([...alphabet, ...merges.map(([left, right]) => left + right)]);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return JSON.stringify({
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      vocab: Object.fromEntries([...pieces].map((piece, id) => [piece, id])),
      merges,
      byte_fallback: false,
      ignore_merges: false,
    },
    ...changes,
  });
}

/** How GPT-2 spells the 256 bytes. */
function byteLetters(): string[] {
  const printable = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let moved = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : moved++));
}
