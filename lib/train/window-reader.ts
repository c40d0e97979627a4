/** Windows of consecutive segments out of a stream, overlapping if asked to, and the position to resume each from. */
import { setImmediate } from "node:timers/promises";
import type { SegmentStream } from "../data/segment-stream.ts";
import { MemformerError } from "../errors.ts";
import type { Segment } from "../data/segment.ts";
import { Turns } from "../engine/turns.ts";

export interface Window {
  readonly segments: readonly Segment[];
  /** Where the stream stood before the segment that the next window starts with. */
  readonly next: unknown;
}

export class WindowReader {
  readonly #stream: SegmentStream;
  readonly #horizon: number;
  readonly #overlap: number;
  readonly #turns = new Turns();
  #hurried = false;
  #tail: { segment: Segment; position: unknown }[] = [];

  /** Throws MemformerError CONFIG unless 0 <= overlap < horizon. */
  constructor(stream: SegmentStream, horizon: number, overlap: number) {
    if (overlap >= horizon)
      throw new MemformerError("CONFIG", `overlap must be below horizon ${horizon}, got ${overlap}`);
    this.#stream = stream;
    this.#horizon = horizon;
    this.#overlap = overlap;
  }

  /** The next window, of `horizon` segments; undefined when the stream ends before it is full. */
  async next(horizon = this.#horizon): Promise<Window | undefined> {
    const read = this.#tail;
    while (read.length < horizon) {
      if (!this.#hurried) await this.#turns.take();
      const position = this.#stream.position();
      const segment = await this.#stream.next();
      if (segment === undefined) return undefined;
      read.push({ segment, position });
    }
    this.#tail = read.slice(horizon - this.#overlap);
    return { segments: read.map(({ segment }) => segment), next: this.#tail[0]?.position ?? this.#stream.position() };
  }

  /**
   * Lets a window that is being read come to its end, as far as it only takes turns: the stream then stands where it
   * would without.
   */
  async finish(): Promise<void> {
    this.#hurried = true;
    await setImmediate();
  }
}
