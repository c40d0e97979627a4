import { MemformerError } from "../errors.ts";

/**
 * `value`, checked to be a whole number of at least `least`.
 * @throws MemformerError `CONFIG`, naming the option, what was expected and what came.
 */
export function wholeNumber(value: unknown, name: string, least: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw new MemformerError("CONFIG", `${name} must be a whole number of at least ${least}, not ${shown(value)}.`, {
    details: { option: name, expected: `whole number >= ${least}`, found: value },
  });
}

/** A value as an error message shows it. */
export function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
