/** Padding in `source` and `target`: never attended, never scored. */
export const PADDING = -1;

/**
 * One segment for each of B parallel lanes: what a model sees in one step of its recurrence.
 * A lane is a run of consecutive segments of one document, then of the next one.
 */
export interface Segment {
  /** B, the number of lanes. */
  readonly batch: number;
  /** T, the tokens of a segment; both arrays hold B rows of T. */
  readonly length: number;
  /** (B, T) the segment before this one in the same document; at a document's start one BOS, then padding. */
  readonly source: Int32Array;
  /** (B, T) this segment, to be predicted; padded after a document's last token. */
  readonly target: Int32Array;
  /** (B) 1 where this segment starts a document: the row's memory restarts from its learned initial state. */
  readonly reset: Uint8Array;
  /** Where these are some lanes of a larger batch: the targets scored in all of its lanes. */
  readonly scoredOfAll?: number;
}
