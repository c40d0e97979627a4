/** A segment in the engine's hands. */
import { MemformerError } from "./errors.ts";
import { PADDING, type Segment } from "./segment.ts";
import { Tensor } from "./tensor.ts";

/** A segment as tensors of the engine. */
export interface SegmentTensors {
  /** (B, T) */
  readonly source: Tensor;
  /** (B, T) */
  readonly target: Tensor;
  /** (B) */
  readonly reset: Tensor;
  readonly padded: boolean;
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
    reset: Tensor.from(reset, [batch], "bool"), padded: segment.padded, batch, length,
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
