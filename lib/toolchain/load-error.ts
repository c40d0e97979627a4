/**
 * The form of every error of loading: what failed and for which target; what was tried, and why not; at most four
 * numbered remedies; where more is told. `details.attempts` holds the same facts for programs.
 */
import { MemformerError, type ErrorCode, type ErrorFacts } from "../errors.ts";

/** One thing that was tried or looked at. */
export interface Attempt {
  readonly place: string;
  /** Why it was not taken, or `found`. */
  readonly outcome: string;
}

/** A remedy, and the command that performs it. */
export type Remedy = readonly [what: string, line: string];

/** An error in that form; of more than four remedies the first four are told. */
export function loadError(
  code: ErrorCode,
  failed: string,
  attempts: readonly Attempt[],
  remedies: readonly Remedy[],
  facts: ErrorFacts = {},
): MemformerError {
  const told = remedies.slice(0, 4);
  const place = widest(attempts.map((attempt) => attempt.place)),
    what = widest(told.map(([text]) => `${text}:`));
  const message = [
    failed,
    ...attempts.map(
      (attempt, i) => `  ${i === 0 ? "looked at" : "         "}  ${attempt.place.padEnd(place)}  ${attempt.outcome}`,
    ),
    ...told.map(([text, line], i) => `  ${i + 1}. ${`${text}:`.padEnd(what)}  ${line}`),
    `  more: npx memformer doctor; docs/troubleshooting.md#err_memformer_${code.toLowerCase()}`,
  ].join("\n");
  return new MemformerError(code, message, { ...facts, details: { attempts, ...facts.details } });
}

function widest(texts: readonly string[]): number {
  return Math.max(0, ...texts.map(({ length }) => length));
}
