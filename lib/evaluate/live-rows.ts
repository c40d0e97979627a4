/** The rows of a pass over text that still have something to read: a batch shrinks as its lanes end. */
import type { SegmentStream } from "../data/segment-stream.ts";
import type { Segment } from "../data/segment.ts";

/** Rows are dropped when at most so many are left of those kept: each shape is recorded anew on a GPU. */
const share = 2 / 3;

export class LiveRows {
  readonly #stream: SegmentStream;
  readonly #least: number;
  #rows: readonly number[];

  /** `least`: how many rows are kept, if need be of lanes that have ended. */
  constructor(stream: SegmentStream, least: number) {
    this.#stream = stream;
    this.#least = least;
    this.#rows = Array.from({ length: stream.lanes }, (_, lane) => lane);
  }

  /** How many rows are kept. */
  get count(): number {
    return this.#rows.length;
  }

  /** Whether rows are to be dropped before the stream's next segment. */
  due(): boolean {
    return this.#kept() !== undefined;
  }

  /** Drops rows if some are to be: returns the places, among those kept until now, of the rows that stay. */
  drop(): readonly number[] | undefined {
    const kept = this.#kept();
    if (kept !== undefined) this.#rows = kept.map((place) => this.#rows[place]!);
    return kept;
  }

  /** The rows of a segment that are kept. */
  of(segment: Segment): Segment {
    return this.count === segment.batch ? segment : rowsOfSegment(segment, this.#rows);
  }

  #kept(): number[] | undefined {
    const ended = this.#stream.ended?.();
    if (ended === undefined || this.count <= this.#least) return undefined;
    const places = this.#rows.map((_, place) => place);
    const live = places.filter((place) => !ended[this.#rows[place]!]);
    if (live.length === 0 || live.length > share * this.count) return undefined;
    const spare = places.filter((place) => !live.includes(place)).slice(0, Math.max(0, this.#least - live.length));
    const kept = [...live, ...spare].sort((a, b) => a - b);
    return kept.length < this.count ? kept : undefined;
  }
}

/** Some rows of a segment. */
export function rowsOfSegment(segment: Segment, rows: readonly number[]): Segment {
  const { length: T } = segment,
    source = new Int32Array(rows.length * T),
    target = new Int32Array(rows.length * T);
  rows.forEach((row, place) => {
    source.set(segment.source.subarray(row * T, (row + 1) * T), place * T);
    target.set(segment.target.subarray(row * T, (row + 1) * T), place * T);
  });
  return {
    ...segment,
    batch: rows.length,
    source,
    target,
    reset: Uint8Array.from(rows, (row) => segment.reset[row]!),
  };
}
