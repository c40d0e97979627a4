/** Tables and figures of cost: what was measured, straight lines through it, and how many times a rival takes more. */
import type { Rows, Section } from "../experiment.ts";
import type { Chart } from "../report/chart.ts";
import { fitted, lineText } from "../report/fit.ts";
import { cell, NONE, valuesOf, type Table } from "../report/table.ts";
import type { CostResult } from "./measure.ts";
import { FULL, MEMFORMER, works, type Axis, type CostSettings, type Work } from "./plan.ts";

const MiB = 2 ** 20;

/** What a line is drawn of. */
const measures = [
  { name: "GFLOP", value: ({ flops }: CostResult): number => flops / 1e9 },
  { name: "ms", value: ({ seconds }: CostResult): number => seconds * 1000 },
  { name: "peak MiB above weights", value: ({ peakBytes }: CostResult): number => peakBytes / MiB },
] as const;

const titles: Readonly<Record<Work, string>> = {
  read: "Reading, without a gradient",
  train: "Training: a window's gradient by MRBP",
  generate: "Generating a segment behind the context",
};
const axes: Readonly<Record<Axis, { label: string; of: (run: CostSettings) => number; x: string }>> = {
  context: { label: "context, tokens", of: ({ context }) => context, x: "N" },
  kept: { label: "slots, or tokens of the cache", of: ({ kept }) => kept ?? NaN, x: "M" },
};

/** The paper's own. */
const published: Table = {
  title: "The paper's Figure 5 and abstract",
  columns: ["claim", "value"],
  rows: [
    ["FLOPs of a Transformer of full attention beside Memformer's, 1,024 tokens", "8.15 x"],
    ["FLOPs of Transformer-XL beside Memformer's, every length", "1.64 x"],
    ["GPU memory from memory size 64 to 2,048: Transformer-XL", "4.7 to 20.9 GB"],
    ["GPU memory from memory size 64 to 2,048: Memformer", "2.3 to 3.2 GB"],
    ["less memory, inference (abstract)", "8.1 x"],
    ["faster, inference (abstract)", "3.2 x"],
  ],
  note: "The paper says of neither ratio what was measured, on what, beside whom: 3.2 is also the ratio of FLOPs in its Table 2, 172 to 54. Batch and segment length of Figure 5 are not stated.",
};

type Found = Rows<CostSettings, CostResult>;

export function costReport(runs: readonly CostSettings[], rows: Found): Section[] {
  const sections = (["context", "kept"] as const).flatMap((axis) =>
    works.map((work) =>
      sectionOf(
        axis,
        work,
        runs.filter((run) => run.axis === axis && run.work === work),
        rows,
      ),
    ),
  );
  return [{ title: "How many times more a rival takes", tables: [ratios(runs, rows), published] }, ...sections];
}

function sectionOf(axis: Axis, work: Work, runs: readonly CostSettings[], rows: Found): Section {
  const { label, of, x } = axes[axis],
    names = [...new Set(runs.map(({ name }) => name))],
    sizes = [...new Set(runs.map(of))];
  const at = (name: string, size: number): ReturnType<Found>[] =>
    runs.filter((run) => run.name === name && of(run) === size).map(rows);
  const points = (name: string, value: (result: CostResult) => number): (readonly [number, number])[] =>
    sizes.map((size) => [size, valuesOf(at(name, size), value)[0] ?? NaN]);
  const [run] = runs,
    setting = run === undefined ? "" : `Batch ${run.batch}, ${run.device}, ${run.rounds} rounds, median.`;
  const measured: Table = {
    title: `${titles[work]}, by ${axis === "context" ? "length" : "what is kept"}`,
    columns: ["model", label, ...measures.map(({ name }) => name), "state bytes of a row"],
    rows: names.flatMap((name) =>
      sizes.map((size) => [
        name,
        String(size),
        ...measures.map(({ value }) => cell(at(name, size), value, short)),
        name === FULL ? NONE : cell(at(name, size), ({ stateBytes }) => stateBytes, String),
      ]),
    ),
    note: `${setting} One segment a step. FLOPs by each model's formula, products of matrices alone${work === "generate" ? "; a token's are its segment's mean. Full attention generates the last tokens of its context" : ""}.`,
  };
  const lines: Table = {
    title: `Straight lines through them (${x}: ${label})`,
    columns: ["model", ...measures.map(({ name }) => name)],
    rows: names.map((name) => [name, ...measures.map(({ value }) => lineText(fitted(points(name, value)), x))]),
  };
  const charts = measures.slice(1).map((measure): Chart => ({
    name: `cost-${axis}-${work}-${measure.name.split(" ")[0]!}`,
    title: `${titles[work]}: ${measure.name}`,
    x: { label, scale: "log" },
    y: { label: measure.name, scale: "linear" },
    series: names.map((name) => ({ name, points: points(name, measure.value) })),
  }));
  return { title: measured.title, tables: [measured, lines], charts };
}

/** Of the greatest size of each axis at which both have a row. */
function ratios(runs: readonly CostSettings[], rows: Found): Table {
  const lines = (["context", "kept"] as const).flatMap((axis) =>
    works.flatMap((work) => {
      const own = runs.filter((run) => run.axis === axis && run.work === work),
        rivals = [...new Set(own.map(({ name }) => name))].filter((name) => !name.startsWith(MEMFORMER));
      return rivals.map((rival) => ratioOf(axis, work, rival, own, rows));
    }),
  );
  return {
    title: "A rival's cost over Memformer's, for the same batch and tokens",
    columns: ["rival", "work", "Memformer keeps", "context", "batch", "peak memory", "time", "FLOPs", "state bytes"],
    rows: lines,
    note: "At the greatest size that both were measured at. Memory: peak above the weights, gradients, states and caches with it. A ratio below 1 means that the rival takes less.",
  };
}

function ratioOf(axis: Axis, work: Work, rival: string, own: readonly CostSettings[], rows: Found): string[] {
  const of = axes[axis].of;
  const pairs = own
    .filter((run) => run.name === rival)
    .map((run) => [run, own.find((other) => other.name.startsWith(MEMFORMER) && of(other) === of(run))!] as const)
    .sort(([a], [b]) => of(a) - of(b));
  const [theirs, ours] =
    pairs.findLast((pair) => pair.every((run) => rows(run)?.result !== undefined)) ?? pairs.at(-1)!;
  const ratio = (value: (result: CostResult) => number): string => {
    const base = valuesOf([rows(ours)], value)[0];
    return base === 0
      ? NONE
      : cell([rows(theirs)], (result) => (base === undefined ? null : value(result) / base), times);
  };
  return [
    axis === "kept" ? `${rival}, cache ${theirs.kept ?? ""}` : rival,
    work,
    `${ours.kept ?? ""} slots`,
    String(theirs.context),
    String(theirs.batch),
    ratio(({ peakBytes }) => peakBytes),
    ratio(({ seconds }) => seconds),
    ratio(({ flops }) => flops),
    rival === FULL ? NONE : ratio(({ stateBytes }) => stateBytes),
  ];
}

function times(value: number): string {
  return `${value.toFixed(2)} x`;
}

/** Four digits. */
function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}
