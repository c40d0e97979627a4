/** Arrays against arrays, with a sentence about the worst place. */
import type { Found, Numbers } from "./opcheck-numbers.ts";

/** Relative error allowed in result i. */
export type Allowed = (i: number) => number;

/** The root mean square of the difference over that of the expected numbers: luck counts less than in the largest. */
export function meanErrorOf(found: Float64Array, expected: Float64Array): number {
  let difference = found.length === expected.length ? 0 : Infinity,
    size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += differenceAt(found, expected, i) ** 2;
    size += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

/** The largest difference over the largest expected number; infinite where a number is missing or not finite. */
export function errorOf(found: Float64Array, expected: Float64Array): number {
  let difference = found.length === expected.length ? 0 : Infinity,
    largest = 0;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, differenceAt(found, expected, i));
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return difference === 0 ? 0 : difference / largest;
}

/** Complaints about `found`, none if its shape is right and its error is at most `allowed`. */
export function compare(
  what: string,
  found: Found,
  expected: Numbers,
  allowed: number,
  measure: (found: Float64Array, expected: Float64Array) => number = errorOf,
): string[] {
  if (found.shape.join() !== expected.shape.join()) {
    return [`${what} has shape [${found.shape.join(", ")}], expected [${expected.shape.join(", ")}]`];
  }
  // Where all should be 0 there is nothing to be relative to: float16's smallest number is what a smaller one may be
  // rounded to.
  const smallest = found.dtype === "float16" ? 2 ** -24 : 0;
  if (expected.data.every((value) => value === 0) && found.data.every((value) => Math.abs(value) <= smallest))
    return [];
  const error = measure(found.data, expected.data);
  if (error <= allowed) return [];
  let worst = 0;
  for (let i = 1; i < expected.data.length; i++) {
    if (differenceAt(found.data, expected.data, i) > differenceAt(found.data, expected.data, worst)) worst = i;
  }
  const place = placeOf(worst, expected.shape).join(", ");
  return [
    `${what} is ${error.toExponential(1)} off, ${allowed.toExponential(1)} allowed; worst at [${place}]: ` +
      `${found.data[worst]}, expected ${expected.data[worst]}`,
  ];
}

function differenceAt(found: Float64Array, expected: Float64Array, i: number): number {
  const difference = Math.abs(found[i]! - expected[i]!);
  return Number.isNaN(difference) ? Infinity : difference;
}

function placeOf(index: number, shape: readonly number[]): number[] {
  const place: number[] = [];
  for (const size of shape.toReversed()) {
    place.unshift(index % size);
    index = Math.floor(index / size);
  }
  return place;
}
