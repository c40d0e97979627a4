/** Options from one description: defaults, checks, and errors that name the option meant. */
import { type z } from "zod";
import { MemformerError, nearest } from "./errors.ts";

/**
 * Parses `input` by `schema`. Throws MemformerError CONFIG with every offence in one sentence each: an unknown option with the
 * known one nearest to it, a wrong value with what was expected; `details.issues` holds zod's own.
 */
export function parseOptions<Schema extends z.ZodObject>(schema: Schema, input: unknown, where: string): z.output<Schema> {
  const parsed = schema.safeParse(input ?? {});
  if (parsed.success) return parsed.data;
  const sentences = parsed.error.issues.flatMap((issue) => {
    if (issue.code !== "unrecognized_keys") return [`${issue.path.join(".") || where}: ${issue.message.replace(/^Invalid input: /, "")}${received(input, issue.path)}`];
    return issue.keys.map((key) => {
      const meant = nearest(key, Object.keys(schema.shape));
      return `there is no option "${[...issue.path, key].join(".")}"${meant === undefined ? "" : `; did you mean "${meant}"?`}`;
    });
  });
  throw new MemformerError("CONFIG", `${where}: ${sentences.join("; ")}`, { details: { issues: parsed.error.issues } });
}

function received(input: unknown, path: readonly PropertyKey[]): string {
  let value: unknown = input;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  return path.length === 0 ? "" : `, got ${JSON.stringify(value) ?? "nothing"}`;
}
