/** Options from one description: defaults, checks, and errors that name the option meant. */
import { z } from "zod";
import { didYouMean, MemformerError, noOption } from "./errors.ts";

export { knownOptions } from "./errors.ts";

/**
 * Parses `input` by `schema`. Throws MemformerError CONFIG with every offence in one sentence each: an unknown option
 * with the known one nearest to it, a wrong value with what was expected; `details.issues` holds zod's own.
 */
export function parseOptions<Schema extends z.ZodObject>(
  schema: Schema,
  input: unknown,
  where: string,
): z.output<Schema> {
  const parsed = schema.safeParse(input ?? {});
  if (parsed.success) return parsed.data;
  const sentences = parsed.error.issues.flatMap((issue) => {
    if (issue.code !== "unrecognized_keys")
      return [
        `${issue.path.join(".") || where}: ${expected(issue)}${received(input, issue.path)}${choiceMeant(issue, valueAt(input, issue.path))}`,
      ];
    return issue.keys.map((key) => noOption(key, [...issue.path, key].join("."), Object.keys(schema.shape)));
  });
  throw new MemformerError("CONFIG", `${where}: ${sentences.join("; ")}`, { details: { issues: parsed.error.issues } });
}

/** A schema with an entry for each option of an interface: the compiler refuses one too few and one too many. */
export function optionSchema<Options extends object>(shape: {
  readonly [Name in keyof Required<Options>]: z.ZodType;
}): z.ZodObject {
  return z.strictObject(shape);
}

/**
 * Checks `options` and leaves them as they are. Throws MemformerError CONFIG as {@link parseOptions} does: every option
 * is read, or refused.
 */
export function checkOptions(schema: z.ZodObject, options: unknown, where: string): void {
  parseOptions(schema, options, where);
}

/** The names of an interface's options: the compiler refuses one too few and one too many. */
export function optionNames<Options extends object>(names: {
  readonly [Name in keyof Required<Options>]: true;
}): readonly string[] {
  return Object.keys(names);
}

/** Throws MemformerError CONFIG unless 0 <= seed < 2^53. */
export function wholeSeed(seed: number, where: string): void {
  if (Number.isSafeInteger(seed) && seed >= 0) return;
  throw new MemformerError("CONFIG", `${where}: seed must be a whole number from 0 to 2^53 - 1, got ${String(seed)}`);
}

/** Schemas of options that are objects or functions: their kind is checked, they stay the same. */
export const optionTypes = {
  /** Of any realm, so no class of this one's. */
  signal: z.custom<AbortSignal>(
    (value) => typeof (value as AbortSignal | null)?.throwIfAborted === "function",
    "expected an AbortSignal",
  ),
  call: z.custom<(...args: never[]) => unknown>((value) => typeof value === "function", "expected a function"),
  text: z.string("expected a text"),
  /** A seed of a random number generator: 0 <= seed < 2^53. */
  seed: z.int().nonnegative(),
  count: z.int().positive(),
};

/** What an issue says was expected, in its own words. */
export function expected({ message }: z.core.$ZodIssue): string {
  return message.replace(/^Invalid (input|option): /, "");
}

/** Which choice a word that is none was probably meant to be, as the end of a sentence; else nothing. */
export function choiceMeant(issue: z.core.$ZodIssue, given: unknown): string {
  if (issue.code !== "invalid_value" || typeof given !== "string") return "";
  return didYouMean(
    given,
    issue.values.filter((value) => typeof value === "string"),
  );
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value: unknown = input;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  return value;
}

function received(input: unknown, path: readonly PropertyKey[]): string {
  return path.length === 0 ? "" : `, got ${shown(valueAt(input, path))}`;
}

function shown(value: unknown): string {
  switch (typeof value) {
    case "undefined":
      return "nothing";
    case "number":
      return String(value); // NaN and infinity too
    case "bigint":
      return `${value}n`;
    case "function":
    case "symbol":
      return `a ${typeof value}`;
    default:
      return JSON.stringify(value)?.slice(0, 200) ?? "nothing";
  }
}
