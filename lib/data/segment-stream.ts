import type { Segment } from "./segment.ts";

/** A source of segments for training. A checkpoint stores its `Position`, which is plain JSON. */
export interface SegmentStream<Position = unknown> {
  /** B */
  readonly lanes: number;
  /** T */
  readonly segmentLength: number;
  readonly vocabulary: number;
  readonly bos: number;
  /** The next segment of every lane; undefined when the stream is over. */
  next(): Promise<Segment | undefined>;
  /**
   * As `next`, but `count` lanes alone, from lane `first` on, with `scoredOfAll`: for ranks that share the stream.
   * Default: `next`, of which the other lanes are left out.
   */
  nextLanes?(first: number, count: number): Promise<Segment | undefined>;
  /** Lanes that have nothing more to read, as the next call of `next` will find them. Absent: not known of any. */
  ended?(): readonly boolean[];
  /** Where the next call of `next` stands. */
  position(): Position;
  /** Goes to a position, from which the stream continues exactly as it did the first time. */
  seek(position: Position): void;
}
