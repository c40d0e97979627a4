/** A segment in the engine's hands. */
import { MemformerError } from "../errors.ts";
import type { SegmentHandle } from "../native/addon.ts";
import { PADDING, type Segment } from "../data/segment.ts";
import { applyOperator, placed, Tensor } from "../engine/tensor.ts";

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
export function uploadSegment(segment: Segment, vocabulary?: number): SegmentTensors {
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
  const lengths = new Int32Array(2 * batch),
    scored = new Int32Array(batch),
    shape = { batch, length, vocabulary };
  const sourceEnds = countTokens("source", source, shape, lengths.subarray(0, batch));
  const targetEnds = countTokens("target", target, shape, lengths.subarray(batch), scored);
  const suffixes = sourceEnds && targetEnds; // whether padding only follows tokens
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

/** The same, without a check of the tokens, on `device`. */
export function uploadTo(device: string, segment: Segment): SegmentTensors {
  const { source, target, reset, lengths, ...rest } = uploadSegment(segment);
  const [there, next, starts, counts] = [source, target, reset, lengths].map((tensor) => placed(tensor, device));
  return { ...rest, source: there!, target: next!, reset: starts!, lengths: counts! };
}

interface Shape {
  readonly batch: number;
  readonly length: number;
  readonly vocabulary: number | undefined;
}

/**
 * One pass over (B, T) tokens, as plain loops, for it holds JavaScript's thread at every step: checks them, and counts
 * those before each row's first padding and, where asked for, all of each row. Returns whether padding only follows
 * tokens.
 */
function countTokens(
  name: string,
  tokens: Int32Array,
  { batch, length, vocabulary }: Shape,
  firsts: Int32Array,
  all?: Int32Array,
): boolean {
  const above = vocabulary ?? 2 ** 31;
  let suffixes = true;
  for (let b = 0, at = 0; b < batch; b++) {
    let count = 0,
      first = length;
    for (let t = 0; t < length; t++, at++) {
      const token = tokens[at]!;
      if (token > PADDING) {
        if (token >= above) throw outside(name, tokens, at, length, above);
        count++;
      } else {
        if (token < PADDING && vocabulary !== undefined) throw outside(name, tokens, at, length, above);
        if (first === length) first = t;
      }
    }
    firsts[b] = first;
    if (all !== undefined) all[b] = count;
    if (first !== count) suffixes = false;
  }
  return suffixes;
}

/** How many targets of a segment are scored, in all its rows. */
export function scoredTargets({ scored }: SegmentTensors): number {
  return scored.reduce((total, count) => total + count, 0);
}

/** Views of `rows` rows of the segment from row `first` on. */
export function rowsOf(segment: SegmentTensors, first: number, rows: number): SegmentTensors {
  const narrow = (tensor: Tensor): Tensor => applyOperator("aten::narrow", tensor, 0, first, rows);
  return {
    ...segment,
    source: narrow(segment.source),
    target: narrow(segment.target),
    reset: narrow(segment.reset),
    lengths: applyOperator("aten::slice.Tensor", segment.lengths, -1, first, first + rows),
    scored: segment.scored.subarray(first, first + rows),
    batch: rows,
  };
}

/** The segment as a call of the addon takes it. `seed`: () int64. */
export function segmentHandle(
  { source, target, reset, lengths }: SegmentTensors,
  seed: Tensor,
  { training = false }: { readonly training?: boolean } = {},
): SegmentHandle {
  return {
    source: source.handle,
    target: target.handle,
    reset: reset.handle,
    seed: seed.handle,
    lengths: lengths.handle,
    training,
  };
}

/** Frees the segment's tensors. */
export function disposeSegment(segment: SegmentTensors): void {
  segment.source.dispose();
  segment.target.dispose();
  segment.reset.dispose();
  segment.lengths.dispose();
}

function outside(name: string, tokens: Int32Array, at: number, length: number, vocabulary: number): MemformerError {
  const token = tokens[at]!,
    row = Math.floor(at / length),
    position = at % length;
  return new MemformerError(
    "TOKEN_RANGE",
    `${name}: token ${token} of row ${row}, position ${position} is outside the vocabulary of ${vocabulary}`,
    { details: { argument: name, token, row, position, vocabulary } },
  );
}
