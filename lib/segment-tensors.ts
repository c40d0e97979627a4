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
  /**
   * (2, B) int32: how many tokens each row of `source` and of `target` begins with; (0) where padding lies before a
   * token in some row.
   */
  readonly lengths: Tensor;
  /** (B) on the host: how many targets of each row are scored. */
  readonly scored: Int32Array;
  readonly batch: number;
  readonly length: number;
}

/**
 * Hands a segment to the engine. With `vocabulary`, throws MemformerError TOKEN_RANGE naming the first token outside
 * it; SHAPE when the arrays do not fit `batch` and `length`.
 */
export function upload(segment: Segment, vocabulary?: number): SegmentTensors {
  const { batch, length, source, target, reset } = segment;
  const expected = batch * length;
  for (const [name, array, size] of [
    ["source", source, expected],
    ["target", target, expected],
    ["reset", reset, batch],
  ] as const) {
    if (array.length !== size) {
      throw new MemformerError(
        "SHAPE",
        `${name} must hold ${size} numbers for ${batch} rows of ${length}, got ${array.length}`,
      );
    }
  }
  if (vocabulary !== undefined) {
    checkTokens("source", source, length, vocabulary);
    checkTokens("target", target, length, vocabulary);
  }
  const lengths = new Int32Array(2 * batch),
    scored = new Int32Array(batch);
  let suffixes = true; // whether padding only follows tokens
  for (let b = 0; b < batch; b++) {
    const ofSource = tokensOf(source, b * length, length),
      ofTarget = tokensOf(target, b * length, length);
    suffixes &&= ofSource.first === ofSource.all && ofTarget.first === ofTarget.all;
    [lengths[b], lengths[batch + b], scored[b]] = [ofSource.first, ofTarget.first, ofTarget.all];
  }
  return {
    source: Tensor.from(source, [batch, length]),
    target: Tensor.from(target, [batch, length]),
    reset: Tensor.from(reset, [batch], "bool"),
    lengths: suffixes ? Tensor.from(lengths, [2, batch]) : Tensor.from(new Int32Array(0), [0]),
    scored,
    batch,
    length,
  };
}

/** Of `length` numbers from `begin` on: how many tokens come before the first padding, and how many there are. */
function tokensOf(tokens: Int32Array, begin: number, length: number): { first: number; all: number } {
  let all = 0,
    first = length;
  for (let t = 0; t < length; t++) {
    if (tokens[begin + t]! > PADDING) all += 1;
    else if (first === length) first = t;
  }
  return { first, all };
}

/** How many targets of a segment are scored, in all its rows. */
export function scoredTargets({ scored }: SegmentTensors): number {
  return scored.reduce((total, count) => total + count, 0);
}

/** Views of `rows` rows of the segment from row `first` on. */
export function rowsOf(segment: SegmentTensors, first: number, rows: number): SegmentTensors {
  const narrow = (tensor: Tensor): Tensor => apply("aten::narrow", tensor, 0, first, rows);
  return {
    ...segment,
    source: narrow(segment.source),
    target: narrow(segment.target),
    reset: narrow(segment.reset),
    lengths: apply("aten::slice.Tensor", segment.lengths, -1, first, first + rows),
    scored: segment.scored.subarray(first, first + rows),
    batch: rows,
  };
}

/** Frees the segment's tensors. */
export function disposeSegment(segment: SegmentTensors): void {
  segment.source.dispose();
  segment.target.dispose();
  segment.reset.dispose();
  segment.lengths.dispose();
}

function checkTokens(name: string, tokens: Int32Array, length: number, vocabulary: number): void {
  const at = tokens.findIndex((token) => token >= vocabulary || token < PADDING);
  if (at < 0) return;
  throw new MemformerError(
    "TOKEN_RANGE",
    `${name}: token ${tokens[at]} of row ${Math.floor(at / length)}, position ${at % length} is outside the vocabulary of ${vocabulary}`,
    { details: { argument: name, token: tokens[at], row: Math.floor(at / length), position: at % length, vocabulary } },
  );
}
