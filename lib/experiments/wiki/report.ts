/**
 * Table 2 by what is equal: tokens, FLOPs, wall-clock, FLOPs of longer training; each model trained in the way that is
 * best on held-out text.
 */
import type { Rows, Section } from "../experiment.ts";
import { keyOf } from "../rows.ts";
import type { Chart } from "../report/chart.ts";
import { cell, fixed, mean, valuesOf, type Table } from "../report/table.ts";
import {
  isTrained,
  kindsOf,
  trainingFlops,
  trainingsOf,
  wikiRun,
  wikiSizes,
  type Kind,
  type Training,
  type WikiSettings,
} from "./plan.ts";
import type { WikiResult, WikiScore } from "./train.ts";

type Found = Rows<WikiSettings, WikiResult>;
type Row = ReturnType<Found>;

/** Of one model in one budget: its rows of the training that is best on held-out text. */
interface Line {
  readonly name: string;
  readonly paper: string;
  readonly rows: readonly Row[];
  /** `0.002, best of 0.001, 0.002, 0.004` */
  readonly rate: string;
}

export function wikiReport(runs: readonly WikiSettings[], rows: Found): Section[] {
  if (runs.length === 0) return [];
  return kindsOf(runs[0]!.budget).map((kind) => sectionOf(kind, linesOf(kind, runs, rows), runs[0]!));
}

/** What is equal, in words. */
function equal(kind: Kind): string {
  return typeof kind === "number" ? `FLOPs, ${kind} times as many` : kind;
}

function inWords({ rate, dropout, weightDecay }: Training): string {
  const beside = [
    ...(dropout === undefined ? [] : [`dropout ${dropout}`]),
    ...(weightDecay === undefined ? [] : [`weight decay ${weightDecay}`]),
  ];
  return beside.length === 0 ? String(rate) : `${rate} with ${beside.join(" and ")}`;
}

function linesOf(kind: Kind, runs: readonly WikiSettings[], rows: Found): Line[] {
  const known = new Map(runs.map((run) => [keyOf("", run), run])),
    seeds = [...new Set(runs.map(({ seed }) => seed))],
    { budget, text, vocabulary } = runs[0]!;
  const { models } = wikiSizes[budget];
  return models
    .filter((model) => isTrained(kind, model))
    .map((model) => {
      const ways = trainingsOf(budget, kind).map((training) => ({
        training,
        rows: seeds.map((seed) => {
          const run = known.get(keyOf("", wikiRun(budget, kind, model, training, { text, vocabulary, seed })));
          return run === undefined ? undefined : rows(run);
        }),
      }));
      const nats = (of: readonly Row[]): number => mean(valuesOf(of, ({ valid }) => valid.nats)),
        made = ways.filter((group) => Number.isFinite(nats(group.rows)));
      const best = made.sort((a, b) => nats(a.rows) - nats(b.rows))[0] ?? ways[0]!,
        tried = made
          .map(({ training }) => training)
          .sort(
            (a, b) =>
              (a.dropout ?? 0) - (b.dropout ?? 0) || (a.weightDecay ?? 0) - (b.weightDecay ?? 0) || a.rate - b.rate,
          );
      const rate = inWords(best.training) + (tried.length > 1 ? `, best of ${tried.map(inWords).join(", ")}` : "");
      return { name: model.name, paper: model.paper, rows: best.rows, rate };
    });
}

function sectionOf(kind: Kind, lines: readonly Line[], { text, lanes, horizon }: WikiSettings): Section {
  const same = equal(kind);
  const tested = lines.some((line) => valuesOf(line.rows, ({ test }) => test?.nats).length > 0);
  const scores = (title: string, of: (result: WikiResult) => WikiScore | null): Table => ({
    title: `${title}, equal ${same}`,
    columns: [
      "model",
      "rate",
      "bits per byte",
      "word perplexity",
      "another's memory costs, nats",
      "state bytes",
      "parameters",
      "M tokens",
      "PFLOP",
      "seconds",
      "the paper, WikiText-103",
    ],
    rows: lines.map(({ name, rate, rows, paper }) => [
      name,
      rate,
      cell(rows, (result) => of(result)?.bitsPerByte),
      cell(
        rows,
        (result) => of(result)?.wordPerplexity,
        (value) => fixed(value, 2),
      ),
      cell(rows, (result) => of(result)?.shuffledCost),
      ...[
        ({ stateBytes }: WikiResult): number => stateBytes,
        ({ parameters }: WikiResult): number => parameters,
        ({ tokens }: WikiResult): number => tokens / 1e6,
        ({ steps }: WikiResult): number => trainingFlops(rows[0]!.settings, steps) / 1e15,
        ({ seconds }: WikiResult): number => seconds,
      ].map((value) => cell(rows.slice(0, 1), value, (number) => String(Number(number.toPrecision(4))))),
      paper,
    ]),
    note: `Trained and scored on ${text}; ${lanes} lanes, horizon ${horizon}. Word perplexity: exp(nats of all tokens / words), a word what is between white space, and the end of each line one more, as WikiText counts them; it does not depend on the tokenizer. Training FLOPs by each model's formula: forward, and two forwards for the way back; what MRBP computes anew, where a window takes several steps, is not counted. Seconds: tokens at the median speed of the steps. Other text than the paper's: compare within a table.`,
  });
  const chart: Chart = {
    name: `wiki-state-${typeof kind === "number" ? `flops-${kind}` : kind.toLowerCase()}`,
    title: `Bits per byte by what is kept, equal ${same}`,
    x: { label: "state bytes of a row", scale: "log" },
    y: { label: "bits per byte", scale: "linear" },
    series: families(lines).map(({ name, members }) => ({
      name,
      points: members.map(pointOf).sort(([a], [b]) => a - b),
    })),
  };
  return {
    title: `Equal ${same}`,
    text: verdict(lines),
    tables: [
      scores("Held-out text", ({ valid }) => valid),
      ...(tested ? [scores("Test text", ({ test }) => test)] : []),
    ],
    charts: [chart],
  };
}

function families(lines: readonly Line[]): { name: string; members: Line[] }[] {
  const names = [...new Set(lines.map(({ name }) => name.split(" ")[0]!))];
  return names.map((name) => ({ name, members: lines.filter((line) => line.name.startsWith(name)) }));
}

function pointOf({ rows }: Line): readonly [number, number] {
  return [mean(valuesOf(rows, ({ stateBytes }) => stateBytes)), mean(valuesOf(rows, ({ valid }) => valid.bitsPerByte))];
}

/** Memformer beside the best Transformer-XL, and beside the best of those that keep no more than it does. */
function verdict(lines: readonly Line[]): string {
  const perplexity = ({ rows }: Line): number => mean(valuesOf(rows, ({ valid }) => valid.wordPerplexity)),
    bytes = ({ rows }: Line): number => mean(valuesOf(rows, ({ stateBytes }) => stateBytes));
  const least = (of: readonly Line[]): Line | undefined =>
    of.filter((line) => Number.isFinite(perplexity(line))).sort((a, b) => perplexity(a) - perplexity(b))[0];
  const own = least(lines.filter(({ name }) => name.startsWith("Memformer") && !name.endsWith("without memory"))),
    rivals = lines.filter(({ name }) => name.startsWith("Transformer-XL"));
  if (own === undefined) return "Memformer beside Transformer-XL: not run.";
  const beside = (rival: Line | undefined, which: string): string =>
    rival === undefined
      ? `There is no row of ${which}.`
      : `Beside the best of ${which}, ${rival.name}, its word perplexity is ${((perplexity(own) / perplexity(rival)) * 100 - 100).toFixed(1)} % higher.`.replace(
          /-(\d+\.\d) % higher/,
          "$1 % lower",
        );
  return [
    `The best Memformer here is ${own.name} (${perplexity(own).toFixed(2)}).`,
    beside(least(rivals), "all Transformer-XL"),
    beside(
      least(rivals.filter((line) => bytes(line) <= bytes(own))),
      "those Transformer-XL that keep at most as many state bytes",
    ),
  ].join(" ");
}
