// The order in which a stream walks through its documents: cut into pieces if long, shuffled anew in every epoch.
import { MemformerError } from "../errors.ts";
import { Random } from "./random.ts";
import type { TokenSource } from "./token-source.ts";

/** Tokens `from` to `to` of one document: what a stream treats as a document. */
export interface DocumentChunk {
  readonly document: number;
  readonly from: number;
  readonly to: number;
}

/** All pieces of a source. A limit of Infinity leaves every document whole. */
export class DocumentChunks {
  readonly count: number;
  readonly #source: TokenSource;
  readonly #limit: number;
  readonly #seed: number | undefined;
  readonly #documents: Uint32Array;
  readonly #starts: Float64Array;
  readonly #longestFirst: Uint32Array | undefined;
  #order: { epoch: number; pieces: Uint32Array } | undefined;

  /**
   * Without a seed, the order is the documents' own in every epoch, or `longestFirst`: by length, equals in their own.
   */
  constructor(source: TokenSource, limit: number, seed: number | undefined, longestFirst = false) {
    this.#source = source;
    this.#limit = limit;
    this.#seed = seed;
    this.count = countPieces(source, limit);
    this.#documents = new Uint32Array(this.count);
    this.#starts = new Float64Array(this.count);
    let piece = 0;
    for (let document = 0; document < source.documents; document++) {
      const length = source.documentLength(document);
      if (!(length > 0)) throw new MemformerError("DATA", `Document ${document} is empty.`, { details: { document } });
      for (let start = 0; start < length; start += limit) {
        this.#documents[piece] = document;
        this.#starts[piece++] = start;
      }
    }
    if (longestFirst) {
      const lengths = Float64Array.from(this.#documents, (document, i) =>
        Math.min(source.documentLength(document) - this.#starts[i]!, limit),
      );
      this.#longestFirst = Uint32Array.from(lengths.keys()).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
    }
  }

  /** The piece in place `place` of an epoch's order. */
  at(epoch: number, place: number): DocumentChunk {
    if (this.#seed !== undefined && this.#order?.epoch !== epoch) {
      this.#order = { epoch, pieces: new Random(this.#seed, epoch).permutation(this.count) };
    }
    const piece = (this.#seed !== undefined ? this.#order!.pieces : this.#longestFirst)?.[place] ?? place;
    return this.containing(this.#documents[piece]!, this.#starts[piece]!);
  }

  /** The piece that holds a document's token `offset`. */
  containing(document: number, offset: number): DocumentChunk {
    const from = this.#limit === Infinity ? 0 : Math.floor(offset / this.#limit) * this.#limit;
    return { document, from, to: Math.min(from + this.#limit, this.#source.documentLength(document)) };
  }
}

function countPieces(source: TokenSource, limit: number): number {
  let count = 0;
  for (let document = 0; document < source.documents; document++) {
    count += Math.ceil(source.documentLength(document) / limit) || 1; // 1 for a limit of Infinity
  }
  return count;
}

/**
 * The limit that gives each of `lanes` lanes a piece of its own, a multiple of `segmentLength`. Without it, lanes that
 * outnumber the documents would walk through the same text in step.
 * @throws MemformerError `CONFIG` if there are too few tokens for that.
 */
export function limitForLanes(source: TokenSource, lanes: number, segmentLength: number): number {
  if (source.documents >= lanes) return Infinity;
  const limit = Math.max(1, Math.floor(source.tokens / lanes / segmentLength)) * segmentLength;
  const found = countPieces(source, limit);
  if (found >= lanes) return limit;
  throw new MemformerError(
    "CONFIG",
    `${source.tokens} tokens are too few for ${lanes} lanes of segments of ${segmentLength}: ` +
      `they make ${found} piece${found === 1 ? "" : "s"}. Take fewer lanes, shorter segments or more text.`,
    { details: { tokens: source.tokens, lanes, segmentLength } },
  );
}
