// Words repeat: the tokens of short pieces of text are kept.

const longestKept = 64; // characters
const mostKept = 1 << 16; // pieces

/** Remembers what `encode` gives for short pieces; forgets all when it is full, for common words come back at once. */
export function cached(encode: (piece: string) => readonly number[]): (piece: string) => readonly number[] {
  let known = new Map<string, readonly number[]>();
  return (piece) => {
    if (piece.length > longestKept) return encode(piece);
    let tokens = known.get(piece);
    if (tokens === undefined) {
      if (known.size >= mostKept) known = new Map();
      known.set(detached(piece), (tokens = encode(piece)));
    }
    return tokens;
  };
}

const shared = 13; // characters from which V8 makes a part of a string a view of it

/** A copy: a part of a longer string would keep all of that string in memory. */
function detached(text: string): string {
  return text.length < shared ? text : Buffer.from(text, "utf16le").toString("utf16le");
}
