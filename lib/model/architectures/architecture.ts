/** What a model says of itself in TypeScript, besides its options: what it does, its work, and the memory it takes. */
import type { WriterName } from "../writers.ts";

/**
 * The options that work and memory follow from. D width, F feedForward, M memorySlots, C cacheLength, T segmentLength,
 * V vocabulary, c compressionRate, K compressedLength.
 */
export interface Sizes {
  readonly width: number;
  readonly feedForward: number;
  readonly memorySlots: number;
  readonly heads: number;
  readonly cacheLength: number;
  readonly compressionRate: number;
  readonly compressedLength: number;
  readonly segmentLength: number;
  readonly vocabulary: number;
  readonly encoderLayers: number;
  readonly decoderLayers: number;
  readonly writer: WriterName;
  readonly precision: "float32" | "bfloat16" | "float16" | "float64";
}

/**
 * Multiply-adds of the matrix products of one row's segment, forward; a backward pass is two of them for each. `path`
 * is the critical path, what `advance` computes: the stack that the memory is written from, and the writer. `whole` is
 * a step with its loss, `path` included.
 */
export interface SegmentWork {
  readonly path: number;
  readonly whole: number;
}

export interface Architecture {
  /** For --help: what it is, in a few words. */
  readonly help: string;
  /** Whether it continues text: sessions, decoding. */
  readonly generates: boolean;
  /** The tokens that a writer writes the memory's slots from. None: it has no writer. */
  readonly writesFrom?: "source" | "target";
  /** Whether the decoder is a stack of its own, which sees the memory only through the encoder's output. */
  readonly separateDecoder: boolean;
  readonly work: (sizes: Sizes) => SegmentWork;
  /** About what the backward pass of a segment of B rows of T tokens holds, bytes. */
  readonly activationBytes: (sizes: Sizes, batch: number, length: number) => number;
  /** About what a segment of B rows of T tokens holds at its peak when it is scored with every ablation, bytes. */
  readonly scoringBytes: (sizes: Sizes, batch: number, length: number) => number;
}
