/**
 * Multi-query associative recall: pairs of a key and a value are shown, then all keys are asked for in another order.
 * Ids: keys from 0, then values, blank, BOS.
 */
import type { Random } from "../../data/index.ts";
import { MemformerError } from "../../errors.ts";
import type { Task, TaskDocument } from "./task.ts";

/**
 * How keys are asked for: each right before its value, as Zoology does (`in line`), or a segment of keys before the
 * segment of their values, so that what writes or reads a memory has seen them (`ahead`).
 */
export const forms = ["in line", "ahead"] as const;
export type Form = (typeof forms)[number];

export interface MqarOptions {
  readonly form: Form;
  readonly segmentLength: number;
  /** Different keys and values. */
  readonly keys: number;
  readonly values: number;
  /** Shown and asked for, of different keys. */
  readonly pairs: number;
}

/** Throws MemformerError CONFIG for more pairs than keys, or an odd segment. */
export function mqarTask({ form, segmentLength: T, keys, values, pairs }: MqarOptions): Task {
  if (pairs > keys || T % 2 !== 0) {
    throw new MemformerError(
      "CONFIG",
      `associative recall takes at most as many pairs as keys, and segments of an even length; got ${pairs} pairs of ${keys} keys, segments of ${T}`,
    );
  }
  const blank = keys + values,
    shown = Math.ceil((2 * pairs) / T),
    asked = form === "ahead" ? 2 * Math.ceil(pairs / T) : shown;
  const answering = [
    ...new Array<boolean>(shown).fill(false),
    ...Array.from({ length: asked }, (_, i) => form === "in line" || i % 2 === 1),
  ];
  return {
    vocabulary: blank + 2,
    bos: blank + 1,
    segmentLength: T,
    answering,
    document(random): TaskDocument {
      const pairsOf = drawn(random, keys, values, pairs, keys);
      const tokens = new Int32Array((shown + asked) * T).fill(blank),
        answers = new Uint8Array(tokens.length);
      pairsOf.forEach(([key, value], i) => tokens.set([key, value], 2 * i));
      [...random.permutation(pairs)].forEach((pair, i) => {
        const [key, value] = pairsOf[pair]!,
          block = shown * T + 2 * T * Math.floor(i / T) + (i % T); // a segment of keys, then one of values
        const [place, answer] = form === "ahead" ? [block, block + T] : [shown * T + 2 * i, shown * T + 2 * i + 1];
        tokens[place] = key;
        tokens[answer] = value;
        answers[answer] = 1;
      });
      return { tokens, answers };
    },
  };
}

/** Pairs of different keys, and values that may be the same. */
function drawn(random: Random, keys: number, values: number, pairs: number, firstValue: number): [number, number][] {
  return [...random.permutation(keys).subarray(0, pairs)].map((key) => [key, firstValue + random.below(values)]);
}
