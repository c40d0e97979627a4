/** The learning rate of a step. */

export interface Schedule {
  readonly rate: number;
  readonly schedule: "cosine" | "linear" | "constant";
  readonly warmup: number;
  readonly steps: number;
  readonly finalRate: number;
}

/** Rises linearly over `warmup` steps, then falls to `finalRate` x `rate` at the last step. Steps count from 1. */
export function learningRate(step: number, { rate, schedule, warmup, steps, finalRate }: Schedule): number {
  if (step <= warmup) return (rate * step) / warmup;
  if (schedule === "constant") return rate;
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  const left = schedule === "cosine" ? (1 + Math.cos(Math.PI * progress)) / 2 : 1 - progress;
  return rate * (finalRate + (1 - finalRate) * left);
}
