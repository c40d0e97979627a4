// Auxiliary tasks of a stream: now and then a segment is not to be continued, but to be filled in or recalled.
import { MemformerError } from "../errors.ts";
import { PADDING } from "./segment.ts";
import { Random } from "./random.ts";

/** How often a segment has another task than to be continued. */
export interface AuxiliaryShares {
  /**
   * Share of whole segments, 0 to 1, whose task is infilling: spans of `source` are replaced by a mask token each, and
   * `target` is the source as it was. Default 0.
   */
  readonly infilling?: number;
  /**
   * Share of whole segments, 0 to 1, whose task is recall: the last token of `source` is replaced by the recall token,
   * and `target` is the segment before the source, which only a memory has. Default 0.
   */
  readonly recallPrevious?: number;
}

/** Ids behind those of the tokenizer and BOS that a stream with auxiliary tasks uses: mask and recall. */
export const AUXILIARY_TOKENS = 2;

export type SegmentTask = "continuation" | "infilling" | "recall";

/** As in the paper's first version: spans have a Poisson length of this mean, and cover this share of a segment. */
const SPAN = 3.5,
  MASKED = 0.3;

export class AuxiliaryTasks {
  readonly infilling: number;
  readonly recallPrevious: number;
  /** Their ids. */
  readonly mask: number;
  readonly recall: number;
  readonly #seed: number;

  /** @throws MemformerError `CONFIG` for shares out of range. */
  constructor({ infilling = 0, recallPrevious = 0 }: AuxiliaryShares, firstId: number, seed: number) {
    for (const [name, share] of Object.entries({ infilling, recallPrevious })) {
      if (typeof share === "number" && share >= 0 && share < 1) continue;
      throw new MemformerError(
        "CONFIG",
        `${name} is a share of segments, at least 0 and below 1; got ${String(share)}.`,
        {
          details: { argument: name, found: share },
        },
      );
    }
    if (infilling + recallPrevious >= 1) {
      throw new MemformerError(
        "CONFIG",
        `infilling and recallPrevious leave no segment to be continued: ${infilling} and ${recallPrevious}.`,
        { details: { argument: "infilling" } },
      );
    }
    this.infilling = infilling;
    this.recallPrevious = recallPrevious;
    this.mask = firstId;
    this.recall = firstId + 1;
    this.#seed = seed;
  }

  get any(): boolean {
    return this.infilling + this.recallPrevious > 0;
  }

  /** Of the segment that begins at token `offset`; `recallable`: two segments of its document lie before it. */
  taskOf(epoch: number, document: number, offset: number, recallable: boolean): SegmentTask {
    if (!this.any) return "continuation";
    const drawn = this.#random(epoch, document, offset, 0).next() / 2 ** 32;
    if (drawn < this.infilling) return "infilling";
    return recallable && drawn < this.infilling + this.recallPrevious ? "recall" : "continuation";
  }

  /** Replaces spans of `source` (T), which is then shorter and padded. */
  maskSpans(source: Int32Array, epoch: number, document: number, offset: number): void {
    const random = this.#random(epoch, document, offset, 1),
      T = source.length,
      masked = new Uint8Array(T);
    let left = Math.max(1, Math.round(MASKED * T));
    while (left > 0) {
      const span = Math.min(left, Math.max(1, poisson(random, SPAN))),
        start = random.below(T - span + 1);
      for (let i = start; i < start + span; i++) {
        if (masked[i] === 1) continue;
        masked[i] = 1;
        left -= 1;
      }
    }
    let length = 0;
    for (let i = 0; i < T; i++) {
      if (masked[i] === 0) source[length++] = source[i]!;
      else if (masked[i - 1] !== 1) source[length++] = this.mask;
    }
    source.fill(PADDING, length);
  }

  #random(epoch: number, document: number, offset: number, draw: number): Random {
    return new Random(this.#seed, epoch, document, offset, draw);
  }
}

/** A whole number of that mean, by Knuth's product of uniform draws. */
function poisson(random: Random, mean: number): number {
  const end = Math.exp(-mean);
  let count = 0;
  for (let product = random.next() / 2 ** 32; product > end; product *= random.next() / 2 ** 32) count += 1;
  return count;
}
