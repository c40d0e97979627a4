/** A text as one endless document for each lane: its documents joined, from a place of its own, round and round. */
import type { TokenSource } from "../../data/index.ts";
import { joined } from "../joined.ts";

/** `lanes` documents of `length` tokens over `source`, which starts over where it ends. Closing it closes `source`. */
export function roundText(source: TokenSource, lanes: number, length: number): TokenSource {
  const text = joined(source),
    all = text.tokens;
  const bytes = Math.round((source.bytes * length) / all);
  return {
    tokenizer: source.tokenizer,
    documents: lanes,
    tokens: lanes * length,
    bytes: lanes * bytes,
    documentLength: () => length,
    documentBytes: () => bytes,
    async read(lane, from, to, into = new Int32Array(to - from)) {
      await text.read(Math.floor((lane * all) / lanes) + from, into.subarray(0, to - from));
      return into.subarray(0, to - from);
    },
    close: () => source.close(),
  };
}
