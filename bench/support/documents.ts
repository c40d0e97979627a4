/**
 * Documents of random tokens whose lengths are drawn as those of an encyclopedia's articles: a few very long, most
 * short.
 */
import { Random, type TokenSource } from "../../lib/index.ts";

export interface DocumentOptions {
  /** Of all documents together; the last one is cut. */
  readonly tokens: number;
  /** Words of a document on average. Default 3,700, as in WikiText-103. */
  readonly words?: number;
  /** Tokens of a word on average. Default 1.3. */
  readonly tokensPerWord?: number;
  /** Of every document; without it lengths are drawn. */
  readonly length?: number;
  /** Deviation of the logarithm of the length. Default 0.8. */
  readonly deviation?: number;
  readonly vocabulary: number;
  readonly bos: number;
  readonly seed?: number;
}

/** `length` ~ exp(N(mu, deviation^2)) with exp(mu + deviation^2 / 2) = words * tokensPerWord. */
export function randomDocuments({
  tokens,
  words = 3_700,
  tokensPerWord = 1.3,
  length: fixed,
  deviation = 0.8,
  vocabulary,
  bos,
  seed = 0,
}: DocumentOptions): TokenSource {
  const random = new Random(seed),
    mu = Math.log(words * tokensPerWord) - deviation ** 2 / 2,
    documents: Int32Array[] = [];
  const uniform = (): number => (random.next() + 1) / 2 ** 32;
  for (let left = tokens; left > 0; left -= documents.at(-1)!.length) {
    const normal = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    const length = Math.min(left, fixed ?? Math.max(1, Math.round(Math.exp(mu + deviation * normal))));
    documents.push(Int32Array.from({ length }, () => (bos + 1 + random.below(vocabulary - 1)) % vocabulary));
  }
  return {
    tokenizer: { name: "random", vocabulary, bos },
    documents: documents.length,
    tokens,
    bytes: NaN,
    documentLength: (document) => documents[document]!.length,
    documentBytes: () => NaN,
    async read(document, from, to, into = new Int32Array(to - from)) {
      into.set(documents[document]!.subarray(from, to));
      return into;
    },
    async close() {
      /* nothing is held open */
    },
  };
}
