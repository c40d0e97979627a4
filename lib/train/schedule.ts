/** The learning rate of a step. */

export interface Schedule {
  readonly learningRate: number;
  readonly schedule: "cosine" | "linear" | "constant";
  readonly warmup: number;
  readonly steps: number;
  readonly finalLearningRate: number;
}

/**
 * Rises linearly over `warmup` steps, then falls to `finalLearningRate` x `learningRate` at the last step. Steps count
 * from 1.
 */
export function learningRateAt(
  step: number,
  { learningRate, schedule, warmup, steps, finalLearningRate }: Schedule,
): number {
  if (step <= warmup) return (learningRate * step) / warmup;
  if (schedule === "constant") return learningRate;
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  const left = schedule === "cosine" ? (1 + Math.cos(Math.PI * progress)) / 2 : 1 - progress;
  return learningRate * (finalLearningRate + (1 - finalLearningRate) * left);
}
