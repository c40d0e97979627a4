/** Rows of text in columns: the first to the left, the others, numbers mostly, to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((text, column) => (column === 0 ? text.padEnd(widths[column]!) : text.padStart(widths[column]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** A configuration, an option a line. */
export function optionLines(options: object): string {
  const width = Math.max(...Object.keys(options).map((key) => key.length));
  return Object.entries(options)
    .map(([key, value]) => `  ${key.padEnd(width)}  ${String(value)}`)
    .join("\n");
}
