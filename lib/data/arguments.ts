import { MemformerError } from "../errors.ts";

/**
 * `value`, checked to be a whole number of at least `least`.
 * @throws MemformerError `CONFIG`, naming the option, what was expected and what came.
 */
export function wholeNumber(value: unknown, name: string, least: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw new MemformerError("CONFIG", `${name} must be a whole number of at least ${least}, got ${shown(value)}`, {
    details: { option: name, expected: `whole number >= ${least}`, found: value },
  });
}

/**
 * `value`, checked to be true or false.
 * @throws MemformerError `CONFIG`, naming the option and what came.
 */
export function flag(value: unknown, name: string): boolean {
  if (typeof value === "boolean") return value;
  throw new MemformerError("CONFIG", `${name} must be true or false, got ${shown(value)}`, {
    details: { option: name, found: value },
  });
}

/** A value as an error message shows it. */
export function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
