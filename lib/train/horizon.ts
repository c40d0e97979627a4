/**
 * How far gradients travel in a step of a run whose horizon grows: 2, 4, 8, ... segments, the windows of a step making
 * up its whole horizon.
 */
import { MemformerError } from "../errors.ts";
import type { TrainConfig } from "./config.ts";

/**
 * The horizon of a step, counted from 1: `horizon` halved to 2 at the least, for over 1 nothing would teach the writer,
 * and as long as it is even; then doubled again in equal shares of the first `horizonGrowth` of all steps. Divides
 * `horizon`. Throws MemformerError CONFIG for a horizon that grows while windows overlap.
 */
export function horizonOf(step: number, { horizon, horizonGrowth, overlap, steps }: TrainConfig): number {
  if (horizonGrowth === 0) return horizon;
  if (overlap > 0)
    throw new MemformerError("CONFIG", `horizonGrowth needs windows that do not overlap, got overlap ${overlap}`);
  let doublings = 0;
  while (horizon % 2 ** (doublings + 1) === 0 && horizon / 2 ** (doublings + 1) >= 2) doublings += 1;
  const grown = Math.min(doublings, Math.floor(((step - 1) / (horizonGrowth * steps)) * doublings));
  return horizon / 2 ** (doublings - grown);
}
