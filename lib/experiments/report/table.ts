/** Tables of a report, and the cells that rows make. What has no row says so. */
import type { Row } from "../row.ts";

/** Columns with a heading each; a line may be set apart as somebody else's number. */
export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What the reader has to know beside: where published numbers come from, what was fixed. */
  readonly note?: string;
}

export const NOT_RUN = "not run";

/** What does not apply to a row. */
export const NONE = "–";

/**
 * A number over the rows of several seeds: `1.552`, or the mean with least, greatest and count; "not run" where there
 * is no row, `failed: …` where none has a result, a dash where `value` is null or no number in all of them.
 */
export function cell<R>(
  rows: readonly (Row<unknown, R> | undefined)[],
  value: (result: R) => number | null | undefined,
  format: (value: number) => string = fixed,
): string {
  const present = rows.filter((row) => row !== undefined),
    values = valuesOf(rows, value);
  if (present.length === 0) return NOT_RUN;
  const failure = present.find(({ result }) => result === undefined);
  if (values.length === 0) return failure === undefined ? NONE : `failed: ${failure.error ?? "no result"}`;
  const missing = rows.length > values.length ? `${values.length} of ${rows.length} seeds` : `${values.length} seeds`;
  if (values.length === 1) return rows.length === 1 ? format(values[0]!) : `${format(values[0]!)} (${missing})`;
  return `${format(mean(values))} (${format(Math.min(...values))} to ${format(Math.max(...values))}, ${missing})`;
}

/** So many decimals, and no zero below zero; from a million on as a power of ten: `3.214e+9`. */
export function fixed(value: number, decimals = 3): string {
  if (Math.abs(value) >= 1e6) return value.toExponential(3);
  return value.toFixed(decimals).replace(/^-(0\.0*)$/, "$1");
}

/** The finite values of the rows that there are. */
export function valuesOf<R>(
  rows: readonly (Row<unknown, R> | undefined)[],
  value: (result: R) => number | null | undefined,
): number[] {
  return rows
    .flatMap((row) => (row?.result === undefined ? [] : [value(row.result)]))
    .filter((number): number is number => typeof number === "number" && Number.isFinite(number));
}

/** The arithmetic mean; NaN of none. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

export function markdown({ title, columns, rows, note }: Table): string {
  const lines = [columns, columns.map(() => "---"), ...rows].map(
    (cells) => `| ${cells.map((text) => text.replaceAll("|", "\\|").replaceAll("\n", " ")).join(" | ")} |`,
  );
  return [title, "", ...lines, ...(note === undefined ? [] : ["", note])].join("\n");
}
