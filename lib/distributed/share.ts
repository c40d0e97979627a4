/** A rank's lanes of a stream that all ranks share. */
import { MemformerError } from "../errors.ts";
import type { Segment } from "../data/segment.ts";
import type { SegmentStream } from "../data/segment-stream.ts";

/** Consecutive lanes of a stream. */
export interface Lanes {
  readonly first: number;
  readonly count: number;
  /** Of all ranks. */
  readonly total: number;
}

/** The lanes of a rank: each gets as many, or one more. Throws MemformerError CONFIG for fewer lanes than ranks. */
export function lanesOf(total: number, rank: number, world: number): Lanes {
  if (total < world)
    throw new MemformerError("CONFIG", `lanes must be at least 1 a rank, got ${total} for ${world} ranks`, {
      details: { lanes: total, ranks: world },
    });
  const first = Math.floor((rank * total) / world);
  return { first, count: Math.floor(((rank + 1) * total) / world) - first, total };
}

/**
 * The stream of a rank: its lanes of every segment, with `scoredOfAll`. Position and seek are the whole stream's, so
 * that a checkpoint fits any number of ranks.
 */
export function streamOfLanes(stream: SegmentStream, { first, count }: Lanes): SegmentStream {
  return {
    lanes: count,
    segmentLength: stream.segmentLength,
    vocabulary: stream.vocabulary,
    bos: stream.bos,
    next: async () => {
      if (stream.nextLanes !== undefined) return stream.nextLanes(first, count);
      const whole = await stream.next();
      return whole === undefined ? undefined : lanesOfSegment(whole, first, count);
    },
    position: () => stream.position(),
    seek: (position) => {
      stream.seek(position);
    },
  };
}

function lanesOfSegment({ length, source, target, reset }: Segment, first: number, count: number): Segment {
  const from = first * length,
    to = (first + count) * length;
  return {
    batch: count,
    length,
    source: source.slice(from, to),
    target: target.slice(from, to),
    reset: reset.slice(first, first + count),
    scoredOfAll: target.reduce((scored, token) => scored + (token >= 0 ? 1 : 0), 0),
  };
}
