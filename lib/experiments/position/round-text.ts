/** A text as one endless document for each lane: its documents joined, from a place of its own, round and round. */
import type { TokenSource } from "../../data/index.ts";

/** `lanes` documents of `length` tokens over `source`, which starts over where it ends. Closing it closes `source`. */
export function roundText(source: TokenSource, lanes: number, length: number): TokenSource {
  const starts: number[] = [];
  let all = 0;
  for (let i = 0; i < source.documents; i++) {
    starts.push(all);
    all += source.documentLength(i);
  }
  const bytes = Math.round((source.bytes * length) / all);
  return {
    tokenizer: source.tokenizer,
    documents: lanes,
    tokens: lanes * length,
    bytes: lanes * bytes,
    documentLength: () => length,
    documentBytes: () => bytes,
    async read(lane, from, to, into = new Int32Array(to - from)) {
      const offset = Math.floor((lane * all) / lanes);
      for (let at = from; at < to;) {
        const place = (offset + at) % all,
          document = starts.findLastIndex((start) => start <= place),
          first = place - starts[document]!;
        const count = Math.min(to - at, source.documentLength(document) - first);
        await source.read(document, first, first + count, into.subarray(at - from, at - from + count));
        at += count;
      }
      return into.subarray(0, to - from);
    },
    close: () => source.close(),
  };
}
