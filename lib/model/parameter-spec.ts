/** Parameters that a user adds to those that a model makes itself. */
import { MemformerError } from "../errors.ts";
import type { NativeParameterSpec } from "../native/addon.ts";

/** A parameter to be made. Its numbers are drawn from N(value, deviation^2). */
export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** Default 0. */
  readonly deviation?: number;
  /** Default 0. */
  readonly value?: number;
  /** Whether weight decay applies to it. Default false. */
  readonly decay?: boolean;
}

/**
 * With every default. Throws MemformerError CONFIG for a name met twice, sizes below 1 and numbers that are not finite.
 */
export function filledSpecs(specs: readonly ParameterSpec[]): NativeParameterSpec[] {
  const names = specs.map((spec) => spec.name),
    twice = names.find((one, i) => names.indexOf(one) < i);
  if (twice !== undefined) throw new MemformerError("CONFIG", `parameter "${twice}" is named twice`);
  for (const { name: one, shape, deviation = 0, value = 0 } of specs) {
    if (shape.some((size) => !Number.isSafeInteger(size) || size < 1))
      throw new MemformerError("CONFIG", `parameter "${one}": sizes must be at least 1, got [${shape.join(", ")}]`);
    if (!(deviation >= 0 && deviation < Infinity) || !Number.isFinite(value))
      throw new MemformerError("CONFIG", `parameter "${one}": deviation and value must be finite, deviation >= 0`);
  }
  return specs.map((spec) => ({ deviation: 0, value: 0, decay: false, ...spec }));
}
