/** What reports of tasks have in common. */
import type { Row } from "../row.ts";
import { cell, mean, percent, valuesOf } from "../report/table.ts";

type Found<R> = readonly (Row<unknown, R> | undefined)[];

/** The rows of each rate, and the best of those that have one: the greatest mean of `value`. */
export function bestRate<S extends { readonly rate: number }, R>(
  runs: readonly S[],
  rows: (run: S) => Row<S, R> | undefined,
  value: (result: R) => number,
): { readonly rate: string; readonly rows: Found<R> } {
  const rates = [...new Set(runs.map(({ rate }) => rate))];
  const groups = rates.map((rate) => ({ rate, rows: runs.filter((run) => run.rate === rate).map(rows) })),
    made = groups.filter((group) => valuesOf(group.rows, value).length > 0);
  const best = made.toSorted((a, b) => mean(valuesOf(b.rows, value)) - mean(valuesOf(a.rows, value)))[0] ?? groups[0]!;
  const tried = made.map(({ rate }) => rate).join(", ");
  return { rate: made.length > 1 ? `${best.rate}, best of ${tried}` : String(best.rate), rows: best.rows };
}

/** A share of all, in percent. */
export function shareCell<R>(rows: Found<R>, value: (result: R) => number | null | undefined): string {
  return cell(rows, value, percent);
}

/** The family of a model's name: `Memformer` of `Memformer, M 4`. */
export function familyOf(name: string): string {
  return name.split(",")[0]!;
}
