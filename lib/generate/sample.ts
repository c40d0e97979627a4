/**
 * Choosing the next token from logits: the sampler for logits of one's own, and the measure of native/ops/sample_token,
 * which sessions draw by. A point of [0, 1) is drawn, and the tokens are walked through from the likeliest on until
 * their probability passes it.
 */
import { randomInt } from "node:crypto";
import { z } from "zod";
import { Random } from "../data/random.ts";
import { MemformerError } from "../errors.ts";
import { checkOptions, optionSchema } from "../options.ts";
import { likeliest, likeliestOf, tokenAt } from "./sample-order.ts";

/** How the next token is drawn. */
export interface SampleOptions {
  /** 0: always the likeliest token. Default 1. */
  readonly temperature?: number | undefined;
  /** Only the k likeliest tokens. Default: all. */
  readonly topK?: number | undefined;
  /** Only the likeliest tokens that together hold this share of the probability (0 < topP <= 1). Default 1. */
  readonly topP?: number | undefined;
  /** The same seed draws the same. A whole number, 0 <= seed < 2^53. Default: another one each time. */
  readonly seed?: number | undefined;
}

/** @internal */
export const sampleShape = {
  temperature: z.number().nonnegative().optional(),
  topK: z.union([z.int().positive(), z.literal(Infinity)], "expected a whole number of at least 1").optional(),
  topP: z.number().positive().max(1).optional(),
  seed: z.int().nonnegative().optional(),
};
const sampleSchema = optionSchema<SampleOptions>(sampleShape);

/** Chooses a token; `seed` is the one it draws by. */
export interface Sampler {
  (logits: ArrayLike<number>): number;
  readonly seed: number;
}

/** Options with their defaults, and the points of [0, 1) that their seed gives one after the other. */
export interface Draws {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly seed: number;
  readonly next: () => number;
}

/** The parameters of drawing: checked options with their defaults, and a new seed where none was given. */
export function drawsOf({
  temperature = 1,
  topK = Infinity,
  topP = 1,
  seed = randomInt(2 ** 48 - 1),
}: SampleOptions): Draws {
  const random = new Random(seed);
  return { temperature, topK, topP, seed, next: () => random.next() / 2 ** 32 };
}

/**
 * A sampler with its own random numbers. Throws MemformerError CONFIG for unknown options and for those out of range;
 * the sampler throws NOT_FINITE for logits that hold NaN or infinity, or nothing but -Infinity, which stands for a
 * token that is never drawn.
 */
export function sampler(options: SampleOptions = {}): Sampler {
  checkOptions(sampleSchema, options, "sampler");
  const draws = drawsOf(options);
  return Object.assign((logits: ArrayLike<number>) => draw(logits, draws), { seed: draws.seed });
}

/** Of logits that no token can be drawn from. */
export function unfitLogits(): MemformerError {
  return new MemformerError(
    "NOT_FINITE",
    "no token can be drawn: the logits hold NaN or infinity, or nothing but -infinity; weights or memory are not finite",
  );
}

function draw(given: ArrayLike<number>, { temperature, topK, topP, next }: Draws): number {
  const logits = new Float64Array(given),
    best = likeliest(logits); // one kind of array: what follows is compiled for it
  if (best === undefined) throw unfitLogits();
  if (temperature === 0) return best;
  const order = likeliestOf(logits, Math.min(topK, logits.length)),
    mass = new Float64Array(logits.length),
    top = logits[best]!;
  for (const token of order) mass[token] = Math.exp((logits[token]! - top) / temperature);
  return tokenAt({ logits, order, mass }, topP, next());
}
