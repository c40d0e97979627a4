/**
 * BABILong's form: the facts of a story in their order, scattered through other text, and the question at the end. As
 * bytes.
 */
import type { TokenSource } from "../../data/index.ts";
import { MemformerError } from "../../errors.ts";
import { joined } from "../joined.ts";
import { leastFacts, story, type Question } from "./babi-world.ts";
import { answeredAtEnd, type Task } from "./task.ts";

export interface BabilongOptions {
  readonly question: Question;
  readonly segmentLength: number;
  /** Bytes of a document before its answer; whole segments. */
  readonly length: number;
  /** Facts of a story: least and most. */
  readonly facts: readonly [number, number];
  /** Of bytes; what the facts are hidden in is read from a place that is drawn. */
  readonly filler: TokenSource;
}

/** Behind an answer, so that it has an end. */
const END = ".";

/**
 * Throws MemformerError CONFIG for a length of no whole segments and for too few facts, DATA where the text is shorter
 * than a document. A story that is too long for the document is drawn anew with fewer facts; CONFIG where none fits.
 */
export function babilongTask({
  question,
  segmentLength: T,
  length,
  facts: [least, most],
  filler,
}: BabilongOptions): Task {
  if (length % T !== 0 || least < leastFacts[question] || most < least)
    throw new MemformerError(
      "CONFIG",
      `a document of ${question} has whole segments of ${T} and from ${leastFacts[question]} facts; got ${length} bytes, ${least} to ${most} facts`,
    );
  const hiding = joined(filler);
  if (hiding.tokens < length)
    throw new MemformerError(
      "DATA",
      `the text that facts are hidden in has ${hiding.tokens} bytes, fewer than ${length}`,
      {
        details: { found: hiding.tokens, expected: length },
      },
    );
  return {
    vocabulary: 257,
    bos: 256,
    segmentLength: T,
    answering: [...new Array<boolean>(length / T).fill(false), true],
    async document(random) {
      let count = least + random.below(most - least + 1);
      for (;;) {
        const told = story(random, question, count),
          facts = told.facts.map((fact) => Buffer.from(` ${fact} `)),
          end = Buffer.from(` ${told.question} `);
        const left = length - end.length - facts.reduce((sum, fact) => sum + fact.length, 0);
        if (left < 0) {
          if (count > leastFacts[question]) count -= 1;
          else throw new MemformerError("CONFIG", `a document of ${length} bytes is too short for ${count} facts`);
          continue;
        }
        const text = new Int32Array(left),
          before = new Int32Array(length);
        await hiding.read(random.below(hiding.tokens - left + 1), text);
        // Facts go between bytes of the text, at places drawn and put in order.
        const places = Array.from(facts, () => random.below(left + 1)).sort((a, b) => a - b);
        let at = 0,
          from = 0;
        facts.forEach((fact, i) => {
          before.set(text.subarray(from, places[i]), at);
          at += places[i]! - from;
          from = places[i]!;
          before.set(fact, at);
          at += fact.length;
        });
        before.set(text.subarray(from), at);
        before.set(end, length - end.length);
        return answeredAtEnd(before, [...Buffer.from(told.answer + END)], T);
      }
    },
  };
}
