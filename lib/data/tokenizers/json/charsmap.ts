// SentencePiece's precompiled normalization: a double-array trie (Darts) from characters to what they become.
const longestCluster = 6; // bytes: a grapheme cluster shorter than this is looked up as one before its characters are

/**
 * The normalization of a `precompiled_charsmap`, base64: the trie's size (uint32), the trie, then strings that end in
 * 0.
 */
export function charsmap(base64: string): (text: string) => string {
  const bytes = Buffer.from(base64, "base64");
  const size = bytes.length >= 4 ? bytes.readUInt32LE(0) : 0;
  if (size === 0 || size % 4 !== 0 || size + 4 > bytes.length) throw new Error("its precompiled_charsmap is damaged");
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => bytes.readUInt32LE(4 + 4 * i));
  const strings = bytes.subarray(4 + size);

  /** What the shortest known beginning of `text` becomes. */
  const lookUp = (text: string): string | undefined => {
    let at = offset(units[0]!);
    for (const byte of Buffer.from(text, "utf8")) {
      if (byte === 0) return undefined;
      at ^= byte;
      const unit = units[at];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
      at ^= offset(unit);
      if (((unit >>> 8) & 1) === 0) continue;
      const from = units[at]! & 0x7fffffff;
      return strings.toString("utf8", from, strings.indexOf(0, from));
    }
    return undefined;
  };
  const ofCharacter = remember((character) => lookUp(character) ?? character);
  const ofCluster = remember((cluster) => {
    const whole = Buffer.byteLength(cluster) < longestCluster ? lookUp(cluster) : undefined;
    return whole ?? Array.from(cluster, ofCharacter).join("");
  });
  const clusters = new Intl.Segmenter("en", { granularity: "grapheme" });
  return (text) =>
    text.replace(parts, (part, plain: string | undefined) =>
      plain !== undefined
        ? Array.from(plain, ofCharacter).join("")
        : Array.from(clusters.segment(part), ({ segment }) => ofCluster(segment)).join(""),
    );
}

/** Runs of ASCII in which every character is a cluster of its own (the first group), and what lies between. */
const parts = /((?:(?<!\r)[\0-\x0c\x0e-\x7f](?![^\0-\x7f]))+)|[^]+?(?=(?<!\r)[\0-\x0c\x0e-\x7f](?![^\0-\x7f])|$)/gu;

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}

function remember(map: (text: string) => string): (text: string) => string {
  const known = new Map<string, string>();
  return (text) => {
    let result = known.get(text);
    if (result === undefined) {
      if (known.size >= 1 << 16) known.clear();
      known.set(text, (result = map(text)));
    }
    return result;
  };
}
