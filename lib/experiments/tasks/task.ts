/** A task of documents with answers in them, and the endless stream of its documents. */
import { Random } from "../../data/index.ts";
import { PADDING, type Segment } from "../../data/segment.ts";
import type { SegmentStream } from "../../data/segment-stream.ts";
import { MemformerError } from "../../errors.ts";

/** S segments of T tokens, and where answers stand in them. Padding ends segments, and is neither read nor scored. */
export interface TaskDocument {
  /** (S, T) */
  readonly tokens: Int32Array;
  /** (S, T) 1 for a token of an answer. */
  readonly answers: Uint8Array;
}

export interface Task {
  readonly vocabulary: number;
  readonly bos: number;
  /** T */
  readonly segmentLength: number;
  /** Of each segment of a document whether answers stand in it: the same for all documents. */
  readonly answering: readonly boolean[];
  /** A document that follows from what `random` draws. */
  document(random: Random): TaskDocument | Promise<TaskDocument>;
}

/** Of each lane the document that it is in, and the next segment of it. */
export interface TaskPosition {
  readonly lanes: readonly { readonly document: number; readonly step: number }[];
}

/** A segment, and (B, T) 1 for tokens of answers. */
export interface TaskSegment extends Segment {
  readonly answers: Uint8Array;
}

/** Documents of `task` in `lanes` lanes, endlessly. What is in them follows from `seed`, the lane and their number. */
export class TaskStream implements SegmentStream<TaskPosition> {
  readonly lanes: number;
  readonly segmentLength: number;
  readonly vocabulary: number;
  readonly bos: number;
  readonly #task: Task;
  readonly #seed: number;
  #position: { document: number; step: number }[];
  #open: (TaskDocument | undefined)[] = [];

  constructor(task: Task, lanes: number, seed: number) {
    this.lanes = lanes;
    this.segmentLength = task.segmentLength;
    this.vocabulary = task.vocabulary;
    this.bos = task.bos;
    this.#task = task;
    this.#seed = seed;
    this.#position = Array.from({ length: lanes }, () => ({ document: 0, step: 0 }));
  }

  async next(): Promise<TaskSegment> {
    const { lanes: B, segmentLength: T } = this;
    const source = new Int32Array(B * T).fill(PADDING),
      target = new Int32Array(B * T),
      answers = new Uint8Array(B * T),
      reset = new Uint8Array(B);
    for (let b = 0; b < B; b++) {
      const { document, step } = this.#position[b]!;
      const open = (this.#open[b] ??= await this.#task.document(new Random(this.#seed, b, document)));
      if (step === 0) {
        source[b * T] = this.bos;
        reset[b] = 1;
      } else source.set(open.tokens.subarray((step - 1) * T, step * T), b * T);
      target.set(open.tokens.subarray(step * T, (step + 1) * T), b * T);
      answers.set(open.answers.subarray(step * T, (step + 1) * T), b * T);
      const last = step + 1 === this.#task.answering.length;
      this.#position[b] = last ? { document: document + 1, step: 0 } : { document, step: step + 1 };
      if (last) this.#open[b] = undefined;
    }
    return { batch: B, length: T, source, target, reset, answers };
  }

  position(): TaskPosition {
    return { lanes: this.#position.map((lane) => ({ ...lane })) };
  }

  /** Throws MemformerError DATA for a position of a stream with other lanes or documents, or none. */
  seek(position: TaskPosition): void {
    const lanes = position?.lanes,
      whole = (of: unknown): boolean => Number.isSafeInteger(of) && Number(of) >= 0;
    const known =
      Array.isArray(lanes) &&
      lanes.length === this.lanes &&
      position.lanes.every(
        ({ document, step }) => whole(document) && whole(step) && step < this.#task.answering.length,
      );
    if (!known) {
      throw new MemformerError(
        "DATA",
        `a position of this stream has ${this.lanes} lanes within documents of ${this.#task.answering.length} segments; got ${String(JSON.stringify(position)).slice(0, 200)}`,
      );
    }
    this.#position = position.lanes.map(({ document, step }) => ({ document, step }));
    this.#open = [];
  }
}

/**
 * A document whose question ends with a segment, so that every model has read it whole before it answers: `before`, at
 * its end, then `answer` in a segment of its own. Throws MemformerError CONFIG where that is too long for the segments.
 */
export function answeredAtEnd(before: Int32Array, answer: readonly number[], segmentLength: number): TaskDocument {
  const segments = before.length / segmentLength;
  if (!Number.isInteger(segments) || answer.length > segmentLength) {
    throw new MemformerError(
      "CONFIG",
      `a question fills whole segments of ${segmentLength} and its answer at most one; got ${before.length} and ${answer.length} tokens`,
    );
  }
  const tokens = new Int32Array((segments + 1) * segmentLength).fill(PADDING),
    answers = new Uint8Array(tokens.length);
  tokens.set(before);
  tokens.set(answer, before.length);
  answers.fill(1, before.length, before.length + answer.length);
  return { tokens, answers };
}
