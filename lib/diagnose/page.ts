/** A diagnosis as one page of HTML, with its pictures inside. */
import type { Findings } from "./findings.ts";
import type { Diagnosis } from "./measure.ts";

interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

const colours = ["#08519c", "#d94801", "#238b45", "#6a51a3"];

export function page(title: string, { verdict, sentences }: Findings, diagnosis: Diagnosis): string {
  const { memory, layers, lags, costs } = diagnosis;
  const by = <T>(name: string, rows: readonly T[], x: (row: T, i: number) => number, y: (row: T) => number): Line => ({
    name,
    points: rows.map((row, i) => [x(row, i), y(row)] as const),
  });
  const pictures = [
    chart(
      "Share of the stream that differs from token to token, by layer",
      layers.map(({ name }) => name),
      [
        by(
          "tokens",
          layers,
          (_, i) => i,
          (row) => row.tokenShare,
        ),
      ],
    ),
    chart(
      "What slots do with a segment (share of all)",
      memory.map(({ segment }) => String(segment)),
      (["latching", "mixing", "overwritten"] as const).map((kind) =>
        by(
          kind,
          memory,
          (_, i) => i,
          (row) => row[kind],
        ),
      ),
    ),
    chart(
      "Share of the memory that differs",
      memory.map(({ segment }) => String(segment)),
      [
        by(
          "slot to slot",
          memory,
          (_, i) => i,
          (row) => row.slotShare,
        ),
        by(
          "text to text",
          memory,
          (_, i) => i,
          (row) => row.textShare,
        ),
      ],
    ),
    chart(
      "Gradient by lag, beside that at lag 0",
      lags.map(({ lag }) => String(lag)),
      (["memory", "readers", "writer", "bias"] as const).map((kind) =>
        by(
          kind,
          lags,
          (_, i) => i,
          (row) => row[kind] / (lags[0]?.[kind] || 1),
        ),
      ),
    ),
  ];
  const numbers: readonly (readonly [string, number])[] = [
    ["tokens", diagnosis.tokens],
    ["nats a token", costs.whole],
    ["another text's memory costs", costs.shuffled],
    ["the learned start instead costs", costs.initial],
    ["another text's source costs", costs.otherSource],
    ["no source costs", costs.noSource],
    ["hidden states, share that differs by token", diagnosis.hiddenTokenShare],
    ["values, share that differs by token", diagnosis.valueTokenShare],
    ["norm of a value, beside a slot's", diagnosis.valueNorm],
    ["largest logit of the writer", diagnosis.writerLogit],
    ["weight of a slot on itself", diagnosis.selfWeight],
    ["||v||", diagnosis.biasNorm],
    ["half-life, segments", diagnosis.halfLife],
    ...layers.flatMap(({ name, logits }) =>
      Object.entries(logits).map(([kind, logit]) => [`largest logit of ${name}.${kind}`, logit] as const),
    ),
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escaped(title)}</title>
<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}svg{max-width:100%}td{padding:0 1em 0 0}td:last-child{text-align:right}</style></head>
<body><h1>${escaped(title)}: the memory is ${verdict}</h1>
<ul>${sentences.map((sentence) => `<li>${escaped(sentence)}</li>`).join("")}</ul>
${pictures.join("\n")}
<table>${numbers
    .filter(([, value]) => Number.isFinite(value))
    .map(([name, value]) => `<tr><td>${escaped(name)}</td><td>${Number(value.toPrecision(4))}</td></tr>`)
    .join("")}</table>
</body></html>
`;
}

function chart(title: string, labels: readonly string[], lines: readonly Line[]): string {
  const width = 720,
    height = 220,
    left = 50,
    bottom = 40,
    values = lines.flatMap(({ points }) => points.map(([, y]) => y)).filter(Number.isFinite);
  const most = Math.max(1e-9, ...values),
    count = Math.max(2, labels.length);
  const x = (i: number): string => (left + (i / (count - 1)) * (width - left - 20)).toFixed(1),
    y = (value: number): string => (height - bottom - (value / most) * (height - bottom - 30)).toFixed(1);
  const every = Math.ceil(labels.length / 10);
  return [
    `<h3>${escaped(title)}</h3><svg viewBox="0 0 ${width} ${height}" font-size="11" font-family="sans-serif">`,
    `<path d="M${left} 20V${height - bottom}H${width - 20}" fill="none" stroke="#888"/>`,
    `<text x="${left - 6}" y="34" text-anchor="end">${Number(most.toPrecision(3))}</text>`,
    ...labels.map((label, i) =>
      i % every === 0
        ? `<text x="${x(i)}" y="${height - bottom + 16}" text-anchor="middle">${escaped(label)}</text>`
        : "",
    ),
    ...lines.map(({ name, points }, k) => {
      const drawn = points
        .filter(([, value]) => Number.isFinite(value))
        .map(([i, value]) => `${x(i)},${y(value)}`)
        .join(" ");
      return `<polyline fill="none" stroke="${colours[k]}" stroke-width="2" points="${drawn}"/><text x="${left + 10 + 130 * k}" y="${height - 6}" fill="${colours[k]}">${name}</text>`;
    }),
    "</svg>",
  ].join("");
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
