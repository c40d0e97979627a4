/**
 * What more ranks than there are here would make of a step, by what is measured here: computed, not measured. A ring
 * sums B bytes over n ranks in 2 (n - 1) passes of B / n bytes each, so that with latency a per pass and b bytes per
 * second
 *   reduction(n) = 2 (n - 1) a + 2 (n - 1) / n B / b      efficiency(n) = compute / (compute + reduction(n))
 * Nothing of the reduction is hidden behind the backward pass, and every link is taken to be as fast as those measured.
 */
export interface Measured {
  /** Ranks that the two sums were measured with, at least 2. */
  readonly ranks: number;
  /** Seconds of the sum of the gradients, and of one number, without what a rank alone takes for it. */
  readonly reduction: number;
  readonly latency: number;
  /** Bytes of the gradients. */
  readonly bytes: number;
}

export interface Links {
  /** Seconds per pass. */
  readonly latency: number;
  /** Bytes per second. */
  readonly bandwidth: number;
}

/** What the sums of so many ranks say of their links; undefined where one number took as long as all: noise. */
export function linksOf({ ranks, reduction, latency, bytes }: Measured): Links | undefined {
  const passes = 2 * (ranks - 1);
  if (latency >= reduction) return undefined;
  return { latency: latency / passes, bandwidth: ((passes / ranks) * bytes) / (reduction - latency) };
}

/** Seconds of a sum of so many bytes over n ranks. */
export function reductionOf(n: number, bytes: number, { latency, bandwidth }: Links): number {
  return 2 * (n - 1) * latency + ((2 * (n - 1)) / n) * (bytes / bandwidth);
}
