/** Rows of a memory's history as JSON: what `GET /v1/sessions/:id/memory` answers. */
import type { SlotClass } from "../diagnose/statistics.ts";
import type { Look } from "./memory-look.ts";

/** A segment in the history. */
export interface Row {
  /** Its number in the document, from 0. */
  readonly segment: number;
  /** Positions in the document of the tokens it was written from: from `start` up to, not including, `end`. */
  readonly start: number;
  readonly end: number;
  /** Where the document stood once it had reached the memory. */
  readonly reached: number;
  /** The text of each token; of a character of several tokens the last one has it. */
  readonly texts: readonly string[];
  /** Undefined: it is still to be looked at. */
  look: Look | undefined;
  /** Why it could not be. */
  error?: string;
}

/** A segment. M slots, N tokens. */
export interface MemoryRow {
  /** Its number in the document, from 0. */
  readonly segment: number;
  /** Positions in the document of the tokens that wrote the memory: from `start` up to, not including, `end`. */
  readonly start: number;
  readonly end: number;
  /** (N) the text of each. Of the document's first segment with an encoder: BOS, without text. */
  readonly tokens: readonly string[];
  /** A letter per slot: `l` latching, `m` mixing, `o` overwritten. Missing, with what follows, beside `error`. */
  readonly classes?: string;
  /** (M) how much each slot changed, 0 to 1, and its norm. */
  readonly change?: readonly number[];
  readonly norm?: readonly number[];
  /** (N, K) the slots that each token read most, and the share of its reading; from M on they are constant slots. */
  readonly reads?: { readonly slots: readonly (readonly number[])[]; readonly weights: readonly (readonly number[])[] };
  /** Why this segment could not be looked at. */
  readonly error?: string;
}

/** What is known of the whole history. */
export interface MemoryFacts {
  readonly memorySlots: number;
  readonly constantSlots: number;
  readonly segmentLength: number;
  /** Another number than before: segments that were told of have been taken back; ask for all of them again. */
  readonly revision: number;
  /** Older segments that are kept no more. */
  readonly dropped: number;
  /** Segments that are still to be looked at. */
  readonly behind: number;
  /** Bytes of the history. */
  readonly bytes: number;
}

/** The answer. */
export type MemoryPage =
  | { readonly available: false; readonly reason: string }
  | ({
      readonly available: true;
      readonly segments: readonly MemoryRow[];
      /** What to ask for next: `since`. */
      readonly next: number;
      /** Whether there is more to be had at once. */
      readonly more: boolean;
    } & MemoryFacts);

/** What is waited for. */
export interface Waited {
  readonly since?: number;
  readonly revision?: number | undefined;
  readonly seconds: number;
  readonly signal?: AbortSignal;
}

const letters = { latching: "l", mixing: "m", overwritten: "o" } as const satisfies Record<SlotClass, string>;

export function memoryPage(
  rows: readonly Row[],
  { since, limit }: { readonly since: number; readonly limit: number },
  facts: MemoryFacts,
): MemoryPage {
  const ready: Row[] = [];
  for (const row of rows) {
    if (row.look === undefined && row.error === undefined) break; // the next ones are told of after it
    if (row.segment >= since) ready.push(row);
  }
  const told = ready.slice(0, limit);
  return {
    available: true,
    ...facts,
    segments: told.map(rowJson),
    next: (told.at(-1)?.segment ?? since - 1) + 1,
    more: ready.length > told.length,
  };
}

function rowJson({ segment, start, end, texts, look, error }: Row): MemoryRow {
  const row = { segment, start, end, tokens: texts };
  if (look === undefined) return { ...row, error: error ?? "" };
  const { classes, change, norm, slots, weights, kept } = look;
  const perToken = (numbers: ArrayLike<number>): number[][] =>
    texts.map((_, n) => Array.from({ length: kept }, (_, k) => rounded(numbers[n * kept + k]!)));
  return {
    ...row,
    classes: classes.map((name) => letters[name]).join(""),
    change: Array.from(change, rounded),
    norm: Array.from(norm, rounded),
    reads: { slots: perToken(slots), weights: perToken(weights) },
  };
}

/** To four places: what a picture shows. */
function rounded(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}

/** Bytes of a row, about: a class is a byte in the engine's terms, a string's character two. */
export function rowBytesOf({ texts, look: seen }: Row): number {
  const text = texts.reduce((sum, { length }) => sum + 16 + 2 * length, 0);
  if (seen === undefined) return text;
  const { classes, change, norm, slots, weights } = seen;
  return text + 8 * classes.length + change.byteLength + norm.byteLength + slots.byteLength + weights.byteLength;
}
