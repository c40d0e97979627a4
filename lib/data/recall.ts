// A task that memory alone can solve: a key is shown, and must be named some segments later, when it is out of sight.
import { MemformerError } from "../errors.ts";
import { knownOptions, optionNames } from "../options.ts";
import { PADDING, type Segment } from "./segment.ts";
import { shown, wholeNumber } from "./arguments.ts";
import { Random } from "./random.ts";
import type { SegmentStream } from "./segment-stream.ts";

/** Size and difficulty of the recall task. */
export interface RecallOptions {
  /** B */
  readonly lanes: number;
  /** T, at least 2 and more than `symbols`. Default 8. */
  readonly segmentLength?: number;
  /** Different key symbols; guessing is right once in so many. Default 16. */
  readonly keys?: number;
  /** Key symbols shown and asked for, in order, in each document. Default 1. */
  readonly symbols?: number;
  /** Different filler tokens. Default 16. */
  readonly fillers?: number;
  /** Segments from the one that shows the key to the one that asks for it, drawn for each document. Default 1. */
  readonly minLag?: number;
  /** Default 8. */
  readonly maxLag?: number;
  /** Default 0. */
  readonly seed?: number;
}

const recallNames = optionNames<RecallOptions>({
  lanes: true,
  segmentLength: true,
  keys: true,
  symbols: true,
  fillers: true,
  minLag: true,
  maxLag: true,
  seed: true,
});

/** For each lane the document it is in, and the next segment of it. */
export interface RecallPosition {
  readonly lanes: readonly { readonly document: number; readonly step: number }[];
}

interface RecallDocument {
  readonly lag: number;
  readonly keys: readonly number[];
  readonly places: readonly number[];
}

/**
 * Endless documents of lag + 1 segments. `source` is what the model reads:
 * - step 0: fillers, the key symbols among them at random places, in order; `reset` is set;
 * - steps 1 to lag - 1: fillers;
 * - step lag: the query token, then fillers, and `target` starts with the key symbols.
 *
 * Every other target is padding, so the loss counts recall alone. A lag of 1 already needs memory: the asking segment's
 * source holds no trace of the key. Ids: keys from 0, then fillers, then the query token, then BOS.
 * @throws MemformerError `CONFIG` for an option out of range.
 */
export class RecallStream implements SegmentStream<RecallPosition> {
  readonly lanes: number;
  readonly segmentLength: number;
  readonly keys: number;
  readonly symbols: number;
  readonly fillers: number;
  readonly minLag: number;
  readonly maxLag: number;
  readonly vocabulary: number;
  readonly query: number;
  readonly bos: number;
  readonly #seed: number;
  #position: { document: number; step: number }[];

  constructor(options: RecallOptions) {
    knownOptions(recallNames, options, "RecallStream");
    this.lanes = wholeNumber(options.lanes, "lanes", 1);
    this.segmentLength = wholeNumber(options.segmentLength ?? 8, "segmentLength", 2);
    this.keys = wholeNumber(options.keys ?? 16, "keys", 2);
    this.symbols = wholeNumber(options.symbols ?? 1, "symbols", 1);
    this.fillers = wholeNumber(options.fillers ?? 16, "fillers", 1);
    this.minLag = wholeNumber(options.minLag ?? 1, "minLag", 1);
    this.maxLag = wholeNumber(options.maxLag ?? Math.max(8, this.minLag), "maxLag", this.minLag);
    this.#seed = wholeNumber(options.seed ?? 0, "seed", 0);
    if (this.symbols >= this.segmentLength) {
      throw new MemformerError(
        "CONFIG",
        `symbols must be less than the segment of ${this.segmentLength}, got ${this.symbols}`,
      );
    }
    this.query = this.keys + this.fillers;
    this.bos = this.query + 1;
    this.vocabulary = this.bos + 1;
    this.#position = Array.from({ length: this.lanes }, () => ({ document: 0, step: 0 }));
  }

  /** The next segment of every lane. The stream never ends. */
  async next(): Promise<Segment> {
    const { lanes: B, segmentLength: T } = this;
    const source = new Int32Array(B * T);
    const target = new Int32Array(B * T).fill(PADDING);
    const reset = new Uint8Array(B);
    for (let b = 0; b < B; b++) {
      const { document, step } = this.#position[b]!;
      const { lag, keys, places } = this.#document(b, document);
      const random = new Random(this.#seed, b, document, step + 1);
      const row = source.subarray(b * T, (b + 1) * T);
      for (let i = 0; i < T; i++) row[i] = this.keys + random.below(this.fillers);
      if (step === 0) places.forEach((place, i) => (row[place] = keys[i]!));
      if (step === 0) reset[b] = 1;
      if (step === lag) {
        row[0] = this.query;
        target.set(keys, b * T);
      }
      this.#position[b] = step === lag ? { document: document + 1, step: 0 } : { document, step: step + 1 };
    }
    return { batch: B, length: T, source, target, reset };
  }

  /** The lag of a lane's document. */
  lag(lane: number, document: number): number {
    return this.#document(lane, document).lag;
  }

  position(): RecallPosition {
    return { lanes: this.#position.map((lane) => ({ ...lane })) };
  }

  /** @throws MemformerError `DATA` for a position of a stream with other lanes or lags, or none. */
  seek(position: RecallPosition): void {
    const lanes: unknown = position?.lanes;
    if (!Array.isArray(lanes) || lanes.length !== this.lanes) {
      throw new MemformerError(
        "DATA",
        `A position of this recall stream has ${this.lanes} lanes; this one: ${shown(JSON.stringify(position))}.`,
      );
    }
    position.lanes.forEach(({ document, step }, b) => {
      const known = Number.isSafeInteger(document) && document >= 0 && Number.isInteger(step) && step >= 0;
      if (!known || step > this.#document(b, document).lag) {
        throw new MemformerError(
          "DATA",
          `Lane ${b} of this recall stream has no step ${step} in a document ${document}.`,
        );
      }
    });
    this.#position = position.lanes.map(({ document, step }) => ({ document, step }));
  }

  #document(lane: number, document: number): RecallDocument {
    const random = new Random(this.#seed, lane, document, 0);
    const lag = this.minLag + random.below(this.maxLag - this.minLag + 1);
    const keys = Array.from({ length: this.symbols }, () => random.below(this.keys));
    const places = [...random.permutation(this.segmentLength).subarray(0, this.symbols)].sort((a, b) => a - b);
    return { lag, keys, places };
  }
}
