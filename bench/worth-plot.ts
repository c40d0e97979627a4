/** The pairs as a picture: worth by depth, a group of bars a variant, in plain SVG. */
import { depths } from "../lib/experiments/worth/score.ts";
import type { Pair } from "../lib/experiments/worth/summary.ts";

const colours = ["#9ecae1", "#4292c6", "#08519c"];

export function plot(title: string, pairs: readonly Pair[]): string {
  const row = 54,
    left = 230,
    width = 720,
    top = 60,
    height = top + pairs.length * row + 30;
  const values = pairs
    .flatMap(({ worthByDepth }) => depths.map((depth) => worthByDepth[depth]))
    .filter(Number.isFinite);
  const least = Math.min(0, ...values),
    most = Math.max(0.01, ...values),
    span = most - least;
  const x = (value: number): number => left + ((value - least) / span) * (width - left - 70);
  const bars = pairs.flatMap(({ variant, worthByDepth }, i) => [
    `<text x="${left - 10}" y="${top + i * row + 28}" text-anchor="end">${escaped(variant)}</text>`,
    ...depths.flatMap((depth, d) => {
      const value = worthByDepth[depth],
        y = top + i * row + d * 15;
      if (!Number.isFinite(value)) return [];
      return [
        `<rect x="${Math.min(x(0), x(value)).toFixed(1)}" y="${y}" width="${Math.abs(x(value) - x(0)).toFixed(1)}" height="13" fill="${colours[d]}"/>`,
        `<text x="${(Math.max(x(0), x(value)) + 4).toFixed(1)}" y="${y + 11}" font-size="11">${value.toFixed(3)}</text>`,
      ];
    }),
  ]);
  const legend = depths.map(
    (_, d) =>
      `<rect x="${left + d * 150}" y="34" width="11" height="11" fill="${colours[d]}"/>` +
      `<text x="${left + d * 150 + 16}" y="44" font-size="12">${["first 1,024 tokens", "to 4,096", "beyond"][d]} </text>`,
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="13">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="10" y="20" font-size="15">${escaped(title)}</text>`,
    ...legend,
    `<line x1="${x(0)}" x2="${x(0)}" y1="${top - 6}" y2="${height - 24}" stroke="#888"/>`,
    ...bars,
    `<text x="${left}" y="${height - 8}" font-size="12">nats a token that the twin is worse by</text>`,
    "</svg>",
    "",
  ].join("\n");
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
