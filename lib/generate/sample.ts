/**
 * Choosing the next token from logits: the sampler for logits of one's own, and the measure of native/ops/sample_token,
 * which sessions draw by. A point of [0, 1) is drawn, and the tokens are walked through from the likeliest on until
 * their probability passes it.
 */
import { randomInt } from "node:crypto";
import { isMap } from "node:util/types";
import { z } from "zod";
import { Random } from "../data/random.ts";
import { MemformerError } from "../errors.ts";
import { checkOptions, optionSchema } from "../options.ts";
import { likeliest, likeliestOf, tokenAt } from "./sample-order.ts";

/** What is added to a token's logit, by its id. */
export type LogitBias = Readonly<Record<number, number>> | ReadonlyMap<number, number>;

/** How the next token is drawn. */
export interface SampleOptions {
  /** 0: always the likeliest token. Default 1. */
  readonly temperature?: number | undefined;
  /** Only the k likeliest tokens. Default: all. */
  readonly topK?: number | undefined;
  /** Only the likeliest tokens that together hold this share of the probability (0 < topP <= 1). Default 1. */
  readonly topP?: number | undefined;
  /**
   * Only tokens at least this share as likely as the likeliest, at this temperature (0 <= minP <= 1). Default 0: all.
   */
  readonly minP?: number | undefined;
  /** Added to the logits of these tokens before anything else but a penalty; -Infinity bans one. */
  readonly logitBias?: LogitBias | undefined;
  /** The same seed draws the same. A whole number, 0 <= seed < 2^53. Default: another one each time. */
  readonly seed?: number | undefined;
}

/** @internal */
export const sampleShape = {
  temperature: z.number().nonnegative().optional(),
  topK: z.union([z.int().positive(), z.literal(Infinity)], "expected a whole number of at least 1").optional(),
  topP: z.number().positive().max(1).optional(),
  minP: z.number().min(0).max(1).optional(),
  logitBias: z
    .custom<LogitBias>(isBias, "expected numbers by token id, none NaN or Infinity; -Infinity bans a token")
    .optional(),
  seed: z.int().nonnegative().optional(),
};
const sampleSchema = optionSchema<SampleOptions>(sampleShape);

/** Chooses a token; `seed` is the one it draws by. */
export interface Sampler {
  (logits: ArrayLike<number>): number;
  readonly seed: number;
}

/** Options with their defaults. */
export interface SampleSettings {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** Token ids, each with what is added to its logit. */
  readonly bias: readonly (readonly [number, number])[];
  readonly seed: number;
}

/** Checked options with their defaults, and a new seed where none was given. */
export function sampleSettings({
  temperature = 1,
  topK = Infinity,
  topP = 1,
  minP = 0,
  logitBias,
  seed = randomInt(2 ** 48 - 1),
}: SampleOptions): SampleSettings {
  return { temperature, topK, topP, minP, bias: biasEntries(logitBias), seed };
}

/** The point of [0, 1) that draws the token in place `position` of a document, whatever was drawn before it. */
export function drawingPoint(seed: number, position: number): number {
  return new Random(seed, position).next() / 2 ** 32;
}

/** Logits below it, relative to the largest, are as good as -infinity: exp(x / temperature) < minP. */
export function minPFloor({ minP, temperature }: Pick<SampleSettings, "minP" | "temperature">): number {
  return minP === 0 || temperature === 0 ? -Infinity : temperature * Math.log(minP);
}

function biasEntries(bias: LogitBias | undefined): [number, number][] {
  if (bias === undefined) return [];
  if (!isMap(bias)) return Object.entries(bias).map(([id, value]) => [Number(id), value]);
  return [...bias];
}

function isBias(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return biasEntries(value as LogitBias).every(
    ([id, number]) => Number.isSafeInteger(id) && id >= 0 && typeof number === "number" && number < Infinity,
  );
}

/**
 * A sampler with its own random numbers. Throws MemformerError CONFIG for unknown options and for those out of range;
 * the sampler throws NOT_FINITE for logits that hold NaN or infinity, or nothing but -Infinity, which stands for a
 * token that is never drawn.
 */
export function sampler(options: SampleOptions = {}): Sampler {
  checkOptions(sampleSchema, options, "sampler");
  const settings = sampleSettings(options),
    random = new Random(settings.seed);
  return Object.assign((logits: ArrayLike<number>) => draw(logits, settings, () => random.next() / 2 ** 32), {
    seed: settings.seed,
  });
}

/** Of logits that no token can be drawn from. */
export function unfitLogits(): MemformerError {
  return new MemformerError(
    "NOT_FINITE",
    "no token can be drawn: the logits hold NaN or infinity, or nothing but -infinity; weights or memory are not finite",
  );
}

function draw(given: ArrayLike<number>, settings: SampleSettings, next: () => number): number {
  const { temperature, topK, topP, bias } = settings,
    logits = new Float64Array(given); // one kind of array: what follows is compiled for it
  for (const [id, value] of bias) if (id < logits.length) logits[id]! += value;
  const best = likeliest(logits);
  if (best === undefined) throw unfitLogits();
  if (temperature === 0) return best;
  const floor = logits[best]! + minPFloor(settings);
  for (let id = 0; id < logits.length; id++) if (logits[id]! < floor) logits[id] = -Infinity;
  const order = likeliestOf(logits, Math.min(topK, logits.length)),
    mass = new Float64Array(logits.length),
    top = logits[best]!;
  for (const token of order) mass[token] = Math.exp((logits[token]! - top) / temperature);
  return tokenAt({ logits, order, mass }, topP, next());
}
