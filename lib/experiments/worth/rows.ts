/** The file of rows that `npm run bench -- worth` appends to. */
import { keyOf } from "./plan.ts";
import type { Row } from "./train-and-score.ts";

/** The rows of its text by the key of their run; a torn line is left out. */
export function rowsOf(text: string): Map<string, Row> {
  const rows = text
    .split("\n")
    .filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line) as Row);
  // A row older than an option of runs is one of its default.
  return new Map(rows.map((row) => [keyOf({ ...row.run, cut: (row.run.cut as number | undefined) ?? 0 }), row]));
}
