/** Documents of a source read as if they were one. */
import type { TokenSource } from "../data/index.ts";

export interface Joined {
  /** Tokens of all. */
  readonly tokens: number;
  /** Tokens from place `from` on to the end of `into`; behind the last one the first comes again. */
  read(from: number, into: Int32Array): Promise<void>;
}

export function joined(source: TokenSource): Joined {
  const starts: number[] = [];
  let tokens = 0;
  for (let i = 0; i < source.documents; i++) {
    starts.push(tokens);
    tokens += source.documentLength(i);
  }
  return {
    tokens,
    async read(from, into) {
      for (let at = 0; at < into.length;) {
        const place = (from + at) % tokens,
          document = starts.findLastIndex((start) => start <= place),
          first = place - starts[document]!;
        const count = Math.min(into.length - at, source.documentLength(document) - first);
        await source.read(document, first, first + count, into.subarray(at, at + count));
        at += count;
      }
    },
  };
}
