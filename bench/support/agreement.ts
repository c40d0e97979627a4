/**
 * Whether two programs do the same: the losses and the gradient norm of one window from the same weights and tokens.
 */

export interface Agreement {
  readonly losses: readonly number[];
  readonly norm: number;
}

// In bfloat16 a product's factors have 8 bits, and the programs round at different places.
const LOSS = 2e-2,
  RELATIVE_LOSS = 1e-2,
  RELATIVE_NORM = 5e-2;

/** What differs by more than bfloat16 explains. */
export function check(found: Agreement, expected: Agreement): string[] {
  const complaints: string[] = [];
  if (found.losses.length !== expected.losses.length)
    complaints.push(`${found.losses.length} losses, expected ${expected.losses.length}`);
  for (const [t, loss] of expected.losses.entries()) {
    const error = Math.abs(found.losses[t]! - loss);
    if (error <= LOSS && error <= RELATIVE_LOSS * Math.abs(loss)) continue; // no number compares as false
    complaints.push(`the loss of segment ${t} is ${found.losses[t]}, expected ${loss}`);
  }
  if (Math.abs(found.norm - expected.norm) <= RELATIVE_NORM * expected.norm) return complaints;
  return [...complaints, `the gradient norm is ${found.norm}, expected ${expected.norm}`];
}
