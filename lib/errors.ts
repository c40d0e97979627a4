import { isNativeError } from "node:util/types";
import { newName } from "./old-names.ts";

/** Stable error codes of memformer; messages may change, codes do not. */
export type ErrorCode =
  | "ABORTED"
  | "BUSY"
  | "CHECKPOINT_FORMAT"
  | "CHECKPOINT_VERSION"
  | "CHECKPOINT_MISMATCH"
  | "CONFIG"
  | "CONFLICT"
  | "DATA"
  | "DEVICE_MISMATCH"
  | "DISPOSED"
  | "DISTRIBUTED"
  | "DTYPE"
  | "IO"
  | "LIBTORCH_HASH"
  | "LIBTORCH_MISMATCH"
  | "LIBTORCH_NOT_FOUND"
  | "LOAD_FAILED"
  | "NAN_LOSS"
  | "NATIVE"
  | "NOT_FINITE"
  | "NO_CUDA"
  | "DRIVER_TOO_OLD"
  | "OUT_OF_MEMORY"
  | "SHAPE"
  | "TIDY_ASYNC"
  | "TOKEN_RANGE"
  | "TOOLS_MISSING"
  | "UNSUPPORTED_PLATFORM";

export interface ErrorFacts {
  /** Machine-readable facts: the argument, what was expected, what came. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly cause?: unknown;
}

/** Every failure of memformer that is not plain misuse of an argument's type. `code` is `ERR_MEMFORMER_…`. */
export class MemformerError extends Error {
  override readonly name: string = "MemformerError";
  readonly code: `ERR_MEMFORMER_${ErrorCode}`;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: ErrorCode, message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = `ERR_MEMFORMER_${code}`;
    this.details = facts.details;
  }
}

/** True for anything thrown by memformer: it carries one of our codes. */
export function isMemformerError(error: unknown): error is Error & { code: `ERR_MEMFORMER_${ErrorCode}` } {
  return isNativeError(error) && String((error as { code?: unknown }).code).startsWith("ERR_MEMFORMER_");
}

/**
 * The member of `known` closest to `word`, if it is close enough to have been meant (at most a third of it mistyped).
 */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** The end of a sentence that refuses `word`: which of `known` it was probably meant to be; else nothing. */
export function didYouMean(word: string, known: Iterable<string>): string {
  return asked(nearest(word, known));
}

function asked(meant: string | undefined): string {
  return meant === undefined ? "" : `; did you mean "${meant}"?`;
}

/**
 * That there is no option `path`, and which of `known` its last part, `key`, meant: its name of today, or the nearest.
 */
export function noOption(key: string, path: string, known: readonly string[]): string {
  const today = newName(key),
    meant = today !== undefined && known.includes(today) ? today : nearest(key, known);
  return `there is no option "${path}"${asked(meant)}`;
}

/**
 * The check for calls of every step: `options` hold no other names than `known`. Throws MemformerError CONFIG with the
 * known one nearest to it.
 */
export function knownOptions(known: readonly string[], options: object, where: string): void {
  if (typeof options !== "object")
    throw new MemformerError("CONFIG", `${where}: expected an object of options, got ${String(options)}`);
  for (const name in options) {
    if (!known.includes(name))
      throw new MemformerError("CONFIG", `${where}: ${noOption(name, name, known)}`, { details: { option: name } });
  }
}

/** Letters to insert, drop, replace, or swap with their neighbour. */
function editDistance(a: string, b: string): number {
  let before: number[] = [],
    previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row.push(Math.min(previous[j]! + 1, row[j - 1]! + 1, substitution, swapped ? before[j - 2]! + 1 : Infinity));
    }
    [before, previous] = [previous, row];
  }
  return previous[b.length]!;
}
