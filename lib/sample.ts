/** Choosing the next token from logits. */
import { Random } from "./data/random.ts";
import { MemformerError } from "./errors.ts";

/** How the next token is drawn. */
export interface SampleOptions {
  /** 0: always the likeliest token. Default 1. */
  readonly temperature?: number | undefined;
  /** Only the k likeliest tokens. Default: all. */
  readonly topK?: number | undefined;
  /** Only the likeliest tokens that together hold this share of the probability (0 < topP <= 1). Default 1. */
  readonly topP?: number | undefined;
  /** Default 0. */
  readonly seed?: number | undefined;
}

/** A sampler with its own random numbers. Throws MemformerError CONFIG for options out of range. */
export function sampler(options: SampleOptions = {}): (logits: ArrayLike<number>) => number {
  const { temperature = 1, topK = Infinity, topP = 1, seed = 0 } = options;
  const check = (ok: boolean, name: string, wanted: string, got: number): void => {
    if (!ok) throw new MemformerError("CONFIG", `${name} must be ${wanted}, got ${got}`);
  };
  check(temperature >= 0 && Number.isFinite(temperature), "temperature", "at least 0", temperature);
  check(topK >= 1 && (topK === Infinity || Number.isInteger(topK)), "topK", "a whole number of at least 1", topK);
  check(topP > 0 && topP <= 1, "topP", "above 0 and at most 1", topP);
  const random = new Random(seed);
  return (logits) => {
    const order = Array.from({ length: logits.length }, (_, token) => token).sort((a, b) => logits[b]! - logits[a]!);
    if (temperature === 0) return order[0]!;
    const kept = order.slice(0, Math.min(topK, order.length));
    const top = logits[kept[0]!]!;
    const mass = kept.map((token) => Math.exp((logits[token]! - top) / temperature));
    const total = mass.reduce((sum, value) => sum + value, 0);
    let nucleus = 0, held = 0;
    while (nucleus < kept.length && (nucleus === 0 || held < topP * total)) held += mass[nucleus++]!;
    let point = random.next() / 2 ** 32 * held;
    for (let i = 0; i < nucleus; i++) {
      point -= mass[i]!;
      if (point < 0) return kept[i]!;
    }
    return kept[nucleus - 1]!;
  };
}
