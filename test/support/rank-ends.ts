/** What ranks have come to, compared. */
import { expect } from "chai";
import type { RankEnd } from "./ranks.ts";

/** Every rank ended well. */
export function healthy(ends: readonly RankEnd[]): void {
  for (const { code, error, stderr } of ends) expect(code, JSON.stringify(error) + stderr).to.equal(0);
}

/** The one hash of all ranks' weights. */
export function weightsOf(ends: readonly RankEnd[]): string {
  healthy(ends);
  expect(new Set(ends.map(({ weights }) => weights)).size).to.equal(1);
  return ends[0]!.weights!;
}

/** The L2 norm of the difference of two gradients, and of the second. */
export function distance(
  found: RankEnd,
  expected: RankEnd,
  precision: string,
): { readonly difference: number; readonly norm: number } {
  let [difference, norm] = [0, 0];
  for (const [name, text] of Object.entries(expected.gradient!)) {
    const of = numbersOf(found.gradient![name]!, precision);
    for (const [i, value] of numbersOf(text, precision).entries()) {
      difference += (of[i]! - value) ** 2;
      norm += value ** 2;
    }
  }
  return { difference: Math.sqrt(difference), norm: Math.sqrt(norm) };
}

function numbersOf(text: string, precision: string): Float32Array | Float64Array {
  const { buffer } = Uint8Array.from(Buffer.from(text, "base64"));
  return precision === "float64" ? new Float64Array(buffer) : new Float32Array(buffer);
}
