/**
 * ListOps: nested operations on lists of digits, `[MAX 2 9 [MIN 4 7 ] 0 ]`, of which the value is to be named. As in
 * the Long Range Arena: MIN, MAX, MED (rounded down) and SM (sum modulo 10), an argument is an operation with
 * probability 0.25.
 * Ids: digits from 0, the four operations, `]`, `=`, blank, BOS.
 */
import type { Random } from "../../data/index.ts";
import { MemformerError } from "../../errors.ts";
import { answeredAtEnd, type Task } from "./task.ts";

export interface ListOpsOptions {
  readonly segmentLength: number;
  /** Tokens of an expression; what is shorter than the longest has blanks before it. */
  readonly least: number;
  readonly most: number;
  /** Operations inside operations. */
  readonly depth: number;
  /** Of an operation at most; two at least. */
  readonly operands: number;
}

const [CLOSE, EQUALS, BLANK, BOS] = [14, 15, 16, 17];
/** One operand in so many is an operation. */
const OPERATION = 4;

const operations: readonly ((values: readonly number[]) => number)[] = [
  (values) => Math.min(...values),
  (values) => Math.max(...values),
  (values) => {
    const sorted = [...values].sort((a, b) => a - b),
      half = sorted.length >> 1;
    return Math.floor(sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2);
  },
  (values) => values.reduce((sum, value) => sum + value, 0) % 10,
];
const names = ["MIN", "MAX", "MED", "SM"] as const;

/** Throws MemformerError CONFIG for lengths that no expression has. */
export function listOpsTask({ segmentLength: T, least, most, depth, operands }: ListOpsOptions): Task {
  if (least > most || most < 4 || depth < 1 || operands < 2) {
    throw new MemformerError(
      "CONFIG",
      `an expression has at least 4 tokens, a depth of 1 and 2 operands; got ${least} to ${most} tokens, depth ${depth}, ${operands} operands`,
    );
  }
  const segments = Math.ceil((most + 1) / T);
  return {
    vocabulary: BOS + 1,
    bos: BOS,
    segmentLength: T,
    answering: [...new Array<boolean>(segments).fill(false), true],
    document(random) {
      const { tokens, value } = expression(random, { least, most, depth, operands });
      const before = new Int32Array(segments * T).fill(BLANK);
      before.set([...tokens, EQUALS], before.length - tokens.length - 1);
      return answeredAtEnd(before, [value], T);
    },
  };
}

/** Drawn until one has a length that is asked for. */
function expression(random: Random, of: Omit<ListOpsOptions, "segmentLength">): { tokens: number[]; value: number } {
  for (;;) {
    const tokens: number[] = [],
      value = operation(random, of, of.depth, tokens);
    if (value !== undefined && tokens.length >= of.least && tokens.length <= of.most) return { tokens, value };
  }
}

/** Appends an operation and returns its value; undefined once there are too many tokens. */
function operation(
  random: Random,
  of: Omit<ListOpsOptions, "segmentLength">,
  depth: number,
  tokens: number[],
): number | undefined {
  const which = random.below(operations.length),
    values: number[] = [];
  tokens.push(10 + which);
  for (let left = 2 + random.below(of.operands - 1); left > 0; left--) {
    if (tokens.length >= of.most) return undefined;
    if (depth > 1 && random.below(OPERATION) === 0) {
      const value = operation(random, of, depth - 1, tokens);
      if (value === undefined) return undefined;
      values.push(value);
    } else {
      values.push(random.below(10));
      tokens.push(values.at(-1)!);
    }
  }
  tokens.push(CLOSE);
  return operations[which]!(values);
}

/** An expression as text. */
export function listOpsText(tokens: readonly number[]): string {
  return tokens
    .filter((token) => token !== BLANK)
    .map((token) =>
      token < 10 ? String(token) : token < CLOSE ? `[${names[token - 10]!}` : token === CLOSE ? "]" : "=",
    )
    .join(" ");
}
