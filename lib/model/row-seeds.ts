/** The seeds of a step's draws: one of the whole step, or one of each row. */
import { MemformerError } from "../errors.ts";
import { Tensor } from "../engine/tensor.ts";
import { wholeSeed } from "../options.ts";
import type { StepOptions } from "./recurrence.ts";

/**
 * () int64, the step's seed; with `firstRow` (B) int64, a seed for each of `rows` rows that follows from the step's and
 * the row's own number: dropout takes either. Throws MemformerError CONFIG for a seed or a row that is not a whole
 * number of at least 0.
 */
export function seedTensor({ seed = 0, firstRow }: StepOptions, rows: number): Tensor {
  wholeSeed(seed, "step");
  if (firstRow === undefined) return Tensor.from(BigInt64Array.of(BigInt(seed)), []);
  if (!Number.isSafeInteger(firstRow) || firstRow < 0)
    throw new MemformerError("CONFIG", `firstRow must be a whole number of at least 0, got ${String(firstRow)}`);
  return Tensor.from(
    BigInt64Array.from({ length: rows }, (_, row) => BigInt(mixedSeed(seed, firstRow + row))),
    [rows],
  );
}

/** A seed of its own for each number t: a 53-bit mix, so that neighbours share no masks. */
export function mixedSeed(seed: number, t: number): number {
  let hash = BigInt.asUintN(64, BigInt(seed) * 0x9e3779b97f4a7c15n + BigInt(t + 1) * 0xbf58476d1ce4e5b9n);
  hash = BigInt.asUintN(64, (hash ^ (hash >> 30n)) * 0xbf58476d1ce4e5b9n);
  hash = BigInt.asUintN(64, (hash ^ (hash >> 27n)) * 0x94d049bb133111ebn);
  return Number((hash ^ (hash >> 31n)) >> 11n);
}
