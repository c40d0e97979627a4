/** A segment in the engine's hands. */
import { MemformerError } from "./errors.ts";
import { PADDING, type Segment } from "./segment.ts";
import { apply, Tensor } from "./tensor.ts";

/** A segment as tensors of the engine. */
export interface SegmentTensors {
  /** (B, T) */
  readonly source: Tensor;
  /** (B, T) */
  readonly target: Tensor;
  /** (B) */
  readonly reset: Tensor;
  readonly padded: boolean;
  /** (B) on the host: how many targets of each row are scored. */
  readonly scored: Int32Array;
  readonly batch: number;
  readonly length: number;
}

/**
 * Hands a segment to the engine. With `vocabulary`, throws MemformerError TOKEN_RANGE naming the first token outside it;
 * SHAPE when the arrays do not fit `batch` and `length`.
 */
export function upload(segment: Segment, vocabulary?: number): SegmentTensors {
  const { batch, length, source, target, reset } = segment;
  const expected = batch * length;
  for (const [name, array, size] of [["source", source, expected], ["target", target, expected], ["reset", reset, batch]] as const) {
    if (array.length !== size) {
      throw new MemformerError("SHAPE", `${name} must hold ${size} numbers for ${batch} rows of ${length}, got ${array.length}`);
    }
  }
  if (vocabulary !== undefined) {
    checkTokens("source", source, length, vocabulary);
    checkTokens("target", target, length, vocabulary);
  }
  return {
    source: Tensor.from(source, [batch, length]), target: Tensor.from(target, [batch, length]),
    reset: Tensor.from(reset, [batch], "bool"), padded: segment.padded,
    scored: Int32Array.from({ length: batch }, (_, b) => scoredOf(target.subarray(b * length, (b + 1) * length))), batch, length,
  };
}

function scoredOf(targets: Int32Array): number {
  let count = 0;
  for (const target of targets) if (target > PADDING) count += 1;
  return count;
}

/** Views of `rows` rows of the segment from row `first` on. */
export function rowsOf(segment: SegmentTensors, first: number, rows: number): SegmentTensors {
  const narrow = (tensor: Tensor): Tensor => apply("aten::narrow", tensor, 0, first, rows);
  return {
    ...segment, source: narrow(segment.source), target: narrow(segment.target), reset: narrow(segment.reset),
    scored: segment.scored.subarray(first, first + rows), batch: rows,
  };
}

/** Frees the segment's tensors. */
export function disposeSegment(segment: SegmentTensors): void {
  segment.source.dispose();
  segment.target.dispose();
  segment.reset.dispose();
}

function checkTokens(name: string, tokens: Int32Array, length: number, vocabulary: number): void {
  const at = tokens.findIndex((token) => token >= vocabulary || token < PADDING);
  if (at < 0) return;
  throw new MemformerError("TOKEN_RANGE",
    `${name}: token ${tokens[at]} of row ${Math.floor(at / length)}, position ${at % length} is outside the vocabulary of ${vocabulary}`,
    { details: { argument: name, token: tokens[at], row: Math.floor(at / length), position: at % length, vocabulary } });
}
