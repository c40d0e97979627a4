// B lanes side by side, each walking through one document after another in segments of T tokens.
import { MemformerError } from "../errors.ts";
import { PADDING, type Segment } from "./segment.ts";
import { knownOptions, optionNames } from "../options.ts";
import { AUXILIARY_TOKENS, AuxiliaryTasks, type AuxiliaryShares, type SegmentTask } from "./auxiliary.ts";
import { flag, wholeNumber } from "./arguments.ts";
import { limitForLanes, DocumentChunks, type DocumentChunk } from "./document-chunks.ts";
import type { SegmentStream } from "./segment-stream.ts";
import { checkPosition, type StreamPosition } from "./stream-position.ts";
import { sourceHash } from "./source-hash.ts";
import type { TokenSource } from "./token-source.ts";

/** Shape, order and place of a stream; {@link AuxiliaryShares} for training alone. */
export interface TokenStreamOptions extends AuxiliaryShares {
  /** B, documents read side by side. */
  readonly lanes: number;
  /** T, tokens of a segment. */
  readonly segmentLength: number;
  /** The token that stands for "a document starts". Default: the BOS of the source's tokenizer. */
  readonly bos?: number;
  /** Everything random follows from it. Default 0. */
  readonly seed?: number;
  /** A new order of documents in every epoch; false keeps their own. Default true. */
  readonly shuffle?: boolean;
  /** Start over when all documents are taken; false ends the stream. Default true. */
  readonly repeat?: boolean;
  /**
   * Documents with more tokens are cut into consecutive pieces that count as documents. Default: none are cut, except
   * that a repeating stream with fewer documents than lanes cuts them so that no two lanes walk through the same
   * text.
   */
  readonly documentLimit?: number;
  /**
   * Whether BOS is to be predicted after a document's last token, in the place where padding would begin, so that a
   * model learns where documents end: generation ends when BOS is drawn. It takes no segment more: a document that
   * fills its last segment has no such target. Default false; an evaluation's bits per byte count the text's tokens
   * alone.
   */
  readonly ends?: boolean;
  /**
   * Whether the longest documents come first, so that all lanes are busy almost to the end of a pass. Not with
   * `shuffle`. Default false.
   */
  readonly longestFirst?: boolean;
}

const streamNames = optionNames<TokenStreamOptions>({
  lanes: true,
  segmentLength: true,
  bos: true,
  seed: true,
  shuffle: true,
  repeat: true,
  documentLimit: true,
  ends: true,
  longestFirst: true,
  infilling: true,
  recallPrevious: true,
});
/** Options of {@link evaluationPass}. */
export type EvaluationPassOptions = Pick<
  TokenStreamOptions,
  "lanes" | "segmentLength" | "bos" | "documentLimit" | "longestFirst"
>;
const passNames = optionNames<EvaluationPassOptions>({
  lanes: true,
  segmentLength: true,
  bos: true,
  documentLimit: true,
  longestFirst: true,
});

/** Counts since the start of the stream. */
export interface StreamStats {
  readonly segments: number;
  /** Tokens to be predicted. */
  readonly tokens: number;
  /** The share of `target` that is padding, 0 to 1. */
  readonly padding: number;
}

/** Where one lane reads: a piece of a document, and the first token of its next segment. */
interface Lane {
  readonly piece: DocumentChunk;
  readonly offset: number;
}

/** A lane's part of one segment. Nothing to read: the stream is over for this lane. */
interface Row {
  readonly document: number;
  readonly from: number;
  readonly to: number;
  readonly start: boolean;
  /** Whether BOS follows, to be predicted. */
  readonly end: boolean;
  readonly task: SegmentTask;
  /** In which it was drawn. */
  readonly epoch: number;
}

/**
 * Cuts a source into segments. Segments never cross documents: the last one of each is padded, and the lane goes on
 * with the next document, its `reset` set. The same source, options and seed give the same segments on every machine.
 *
 * `next` may be called again before the promise it gave has settled; segments come in the order of the calls.
 * @throws MemformerError `CONFIG` for an option out of range, `DATA` for a source with an empty document.
 */
export class TokenStream implements SegmentStream<StreamPosition> {
  readonly lanes: number;
  readonly segmentLength: number;
  readonly bos: number;
  readonly vocabulary: number;
  /** Tokens after which a document is cut; Infinity if none is. */
  readonly documentLimit: number;
  readonly #source: TokenSource;
  readonly #seed: number;
  readonly #shuffle: boolean;
  readonly #repeat: boolean;
  readonly #ends: boolean;
  readonly #longestFirst: boolean;
  readonly #auxiliary: AuxiliaryTasks;
  readonly #targets: number; // of an epoch
  readonly #pieces: DocumentChunks;
  #lanes: (Lane | undefined)[];
  #epoch = 0;
  #taken = 0; // pieces of this epoch given to lanes
  #segments = 0;
  #tokens = 0;
  #text: string | null | undefined; // found out when it is first asked for

  constructor(source: TokenSource, options: TokenStreamOptions) {
    knownOptions(streamNames, options, "TokenStream");
    this.#source = source;
    this.lanes = wholeNumber(options.lanes, "lanes", 1);
    this.segmentLength = wholeNumber(options.segmentLength, "segmentLength", 1);
    this.bos = wholeNumber(options.bos ?? source.tokenizer.bos, "bos", 0);
    this.#seed = wholeNumber(options.seed ?? 0, "seed", 0);
    const tokens = Math.max(source.tokenizer.vocabulary, this.bos + 1);
    this.#auxiliary = new AuxiliaryTasks(options, tokens, this.#seed);
    this.vocabulary = tokens + (this.#auxiliary.any ? AUXILIARY_TOKENS : 0);
    this.#shuffle = flag(options.shuffle ?? true, "shuffle");
    this.#repeat = flag(options.repeat ?? true, "repeat");
    this.documentLimit =
      options.documentLimit !== undefined
        ? wholeNumber(options.documentLimit, "documentLimit", 1)
        : this.#repeat
          ? limitForLanes(source, this.lanes, this.segmentLength)
          : Infinity;
    this.#ends = flag(options.ends ?? false, "ends");
    this.#targets = source.tokens + (this.#ends ? endsOf(source, this.documentLimit, this.segmentLength) : 0);
    this.#longestFirst = flag(options.longestFirst ?? false, "longestFirst");
    if (this.#longestFirst && this.#shuffle) {
      throw new MemformerError("CONFIG", "longestFirst is an order of its own: it needs shuffle to be false.", {
        details: { argument: "longestFirst" },
      });
    }
    this.#pieces = new DocumentChunks(
      source,
      this.documentLimit,
      this.#shuffle ? this.#seed : undefined,
      this.#longestFirst,
    );
    this.#lanes = new Array<undefined>(this.lanes).fill(undefined);
  }

  /** Whole passes over the source so far, counted in tokens. */
  get epoch(): number {
    return Math.floor(this.#tokens / this.#targets);
  }

  /** How far the current pass is, from 0 to just below 1. */
  get fraction(): number {
    return (this.#tokens % this.#targets) / this.#targets;
  }

  /** What the stream has handed out so far. */
  get stats(): StreamStats {
    const slots = this.#segments * this.lanes * this.segmentLength;
    return { segments: this.#segments, tokens: this.#tokens, padding: slots === 0 ? 0 : 1 - this.#tokens / slots };
  }

  /**
   * The next segment of every lane; undefined when `repeat` is false and every lane is done. A lane that is done before
   * the others has a row of BOS and padding with nothing to predict, its `reset` set.
   * @throws MemformerError `IO` or `DATA` if the source cannot be read.
   */
  async next(): Promise<Segment | undefined> {
    const rows = this.#advance();
    return rows.every((row) => row === undefined) ? undefined : this.#read(rows);
  }

  /**
   * As `next`, but only lanes `first` to `first + count - 1`, with the targets scored in all lanes: ranks that train
   * together read their own lanes of one stream, and each knows what the others score.
   * @throws MemformerError as `next`.
   */
  async nextLanes(first: number, count: number): Promise<Segment | undefined> {
    const rows = this.#advance();
    if (rows.every((row) => row === undefined)) return undefined;
    const scoredOfAll = rows.reduce((sum, row) => sum + (row === undefined ? 0 : scoredOf(row)), 0);
    return { ...(await this.#read(rows.slice(first, first + count))), scoredOfAll };
  }

  async #read(rows: readonly (Row | undefined)[]): Promise<Segment> {
    const B = rows.length,
      T = this.segmentLength;
    const source = new Int32Array(B * T).fill(PADDING);
    const target = new Int32Array(B * T).fill(PADDING);
    const reset = Uint8Array.from(rows, (row) => (row === undefined || row.start ? 1 : 0));
    const both = new Int32Array(2 * B * T); // of each row the segment before and this one, as they lie in the document
    await Promise.all(
      rows.map(async (row, b) => {
        const at = b * T;
        if (row === undefined || row.start) source[at] = this.bos;
        if (row === undefined) return;
        const { document, from, to } = row;
        if (row.task !== "continuation") {
          await this.#readTask(row, source.subarray(at, at + T), target.subarray(at, at + T));
          return;
        }
        if (row.start) await this.#source.read(document, from, to, target.subarray(at, at + T));
        else {
          const place = 2 * at;
          await this.#source.read(document, from - T, to, both.subarray(place, place + 2 * T));
          source.set(both.subarray(place, place + T), at);
          target.set(both.subarray(place + T, place + T + to - from), at);
        }
        if (row.end) target[at + to - from] = this.bos;
      }),
    );
    return { batch: B, length: T, source, target, reset };
  }

  /** Source and target (T) of a segment that is not to be continued. */
  async #readTask({ task, document, from, epoch }: Row, source: Int32Array, target: Int32Array): Promise<void> {
    const T = this.segmentLength,
      auxiliary = this.#auxiliary;
    await this.#source.read(document, from - T, from, source);
    if (task === "infilling") {
      target.set(source);
      auxiliary.maskSpans(source, epoch, document, from);
    } else {
      await this.#source.read(document, from - 2 * T, from - T, target);
      source[T - 1] = auxiliary.recall;
    }
  }

  /** Lanes without anything more to read; none, if the stream repeats. */
  ended(): boolean[] {
    const over = !this.#repeat && this.#taken === this.#pieces.count;
    return this.#lanes.map((lane) => over && lane === undefined);
  }

  /** Segments until the stream is over: for ever, if it repeats. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Segment, void, void> {
    for (let segment = await this.next(); segment !== undefined; segment = await this.next()) yield segment;
  }

  position(): StreamPosition {
    return {
      stream: this.#identity(),
      epoch: this.#epoch,
      next: this.#taken,
      lanes: this.#lanes.map((lane) => (lane ? { document: lane.piece.document, offset: lane.offset } : null)),
      segments: this.#segments,
      tokens: this.#tokens,
    };
  }

  /** @throws MemformerError `DATA` for a position of another stream, or none. */
  seek(position: StreamPosition): void {
    checkPosition(position, this.#identity(), this.#source, this.#pieces.count);
    this.#lanes = position.lanes.map((lane) =>
      lane ? { piece: this.#pieces.containing(lane.document, lane.offset), offset: lane.offset } : undefined,
    );
    [this.#epoch, this.#taken] = [position.epoch, position.next];
    [this.#segments, this.#tokens] = [position.segments, position.tokens];
  }

  /** Decides what every lane reads next. Without waiting, so that the order of calls is the order of segments. */
  #advance(): (Row | undefined)[] {
    const rows = this.#lanes.map((lane, b): Row | undefined => {
      lane ??= this.#take();
      if (lane === undefined) return undefined;
      const { piece, offset } = lane;
      const to = Math.min(offset + this.segmentLength, piece.to);
      this.#lanes[b] = to < piece.to ? { piece, offset: to } : undefined;
      const end = this.#ends && to - offset < this.segmentLength && to === this.#source.documentLength(piece.document);
      // Of a segment that is not whole another number of tokens would be scored: it is continued.
      const auxiliary = this.#auxiliary.any && offset > piece.from && to - offset === this.segmentLength;
      const task = auxiliary
        ? this.#auxiliary.taskOf(this.#epoch, piece.document, offset, offset - 2 * this.segmentLength >= piece.from)
        : "continuation";
      const row = {
        document: piece.document,
        from: offset,
        to,
        start: offset === piece.from,
        end,
        task,
        epoch: this.#epoch,
      } as const;
      this.#tokens += scoredOf(row);
      return row;
    });
    if (rows.some((row) => row !== undefined)) this.#segments++;
    return rows;
  }

  #take(): Lane | undefined {
    if (this.#taken === this.#pieces.count) {
      if (!this.#repeat) return undefined;
      this.#epoch++;
      this.#taken = 0;
    }
    const piece = this.#pieces.at(this.#epoch, this.#taken++);
    return { piece, offset: piece.from };
  }

  #identity(): StreamPosition["stream"] {
    return {
      documents: this.#source.documents,
      tokens: this.#source.tokens,
      lanes: this.lanes,
      segmentLength: this.segmentLength,
      seed: this.#shuffle ? this.#seed : null,
      documentLimit: this.documentLimit === Infinity ? null : this.documentLimit,
      text: (this.#text ??= textOf(this.#source)),
      ...(this.#ends && { ends: true }),
      ...(this.#longestFirst && { longestFirst: true }),
      ...(this.#auxiliary.infilling > 0 && { infilling: this.#auxiliary.infilling }),
      ...(this.#auxiliary.recallPrevious > 0 && { recallPrevious: this.#auxiliary.recallPrevious }),
    };
  }
}

/** The targets of a lane's part of a segment. */
function scoredOf({ from, to, end }: Row): number {
  return to - from + (end ? 1 : 0);
}

function textOf(source: TokenSource): string | null {
  const hash = sourceHash(source);
  return hash === undefined ? null : `${source.tokenizer.name} ${hash}`;
}

/** How many documents have room behind their last token: where they are cut, their last piece. */
function endsOf(source: TokenSource, limit: number, segmentLength: number): number {
  let ends = 0;
  for (let document = 0; document < source.documents; document++) {
    const length = source.documentLength(document),
      last = limit === Infinity ? length : ((length - 1) % limit) + 1;
    if (last % segmentLength !== 0) ends++;
  }
  return ends;
}

/**
 * One pass over a source for evaluation, in its own order or the longest documents first. Documents stay whole unless
 * `documentLimit` is given.
 */
export function evaluationPass(source: TokenSource, options: EvaluationPassOptions): TokenStream {
  knownOptions(passNames, options, "evaluationPass");
  return new TokenStream(source, { ...options, shuffle: false, repeat: false });
}
