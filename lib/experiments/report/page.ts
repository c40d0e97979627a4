/** A report as one page that needs nothing else: claim, tables, figures, and what the rows were measured on. */
import type { Experiment, Row, Section } from "../experiment.ts";
import { escaped, svg } from "./chart.ts";
import { markdown, type Table } from "./table.ts";

export interface Report {
  readonly experiment: Experiment;
  readonly budget: string;
  readonly sections: readonly Section[];
  /** Those of its runs that there are, of how many. */
  readonly rows: readonly Row[];
  readonly planned: number;
}

const style = `body{font:15px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}caption{text-align:left;font-weight:bold}
td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
svg,img{max-width:100%;height:auto}.note{color:#555}`;

/** `2 of 12 runs made; budget minutes` */
export function progressOf({ rows, planned, budget }: Report): string {
  return `${rows.length} of ${planned} runs made; budget ${budget}`;
}

export function page(report: Report): string {
  const { experiment, sections, rows } = report;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${escaped(experiment.title)}</title><style>${style}</style></head>
<body><h1>${escaped(experiment.title)}</h1>
<p>The paper: ${escaped(experiment.claim)}</p>
<p>${escaped(progressOf(report))}. Every number of ours comes from a row of rows.jsonl; what has no row is "not run".</p>
${sections.map(sectionOf).join("\n")}
<h2>Measured on</h2>
<ul>${machinesOf(rows)
    .map((line) => `<li>${escaped(line)}</li>`)
    .join("")}</ul>
</body></html>
`;
}

/** The tables for a terminal. */
export function text(report: Report): string {
  const parts = report.sections.flatMap(({ tables = [], text: words }) => [
    ...(words === undefined ? [] : [words]),
    ...tables.map(markdown),
  ]);
  return [`${report.experiment.title} (${progressOf(report)})`, ...parts].join("\n\n");
}

function sectionOf({ title, text: words, tables = [], charts = [], pictures = [] }: Section): string {
  return [
    `<h2>${escaped(title)}</h2>`,
    ...(words === undefined ? [] : [`<p>${escaped(words)}</p>`]),
    ...tables.map(tableOf),
    ...charts.map((chart) => `<figure>${svg(chart)}</figure>`),
    ...pictures.map(
      ({ title: of, png }) =>
        `<figure><img src="data:image/png;base64,${png}" alt="${escaped(of)}"><figcaption>${escaped(of)}</figcaption></figure>`,
    ),
  ].join("\n");
}

function tableOf({ title, columns, rows, note }: Table): string {
  const line = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join("")}</tr>`;
  return `<table><caption>${escaped(title)}</caption><thead>${line(columns, "th")}</thead><tbody>${rows
    .map((cells) => line(cells, "td"))
    .join("")}</tbody></table>${note === undefined ? "" : `<p class="note">${escaped(note)}</p>`}`;
}

/** Each machine once, with the number of its rows. */
function machinesOf(rows: readonly Row[]): string[] {
  const counts = new Map<string, number>();
  for (const { machine } of rows) {
    const line = Object.entries(machine)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ");
    counts.set(line, (counts.get(line) ?? 0) + 1);
  }
  return [...counts].map(([line, count]) => `${count} rows: ${line}`);
}
