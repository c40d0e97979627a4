/** What a memory is worth: models trained with it and their twins without, on the same data in the same order. */
import { MemformerError } from "../errors.ts";
import { experiment, type Budget, type Section } from "./experiment.ts";
import { cell, type Table } from "./report/table.ts";
import { sourceName } from "./text.ts";
import { openTexts } from "./worth/data.ts";
import { keyOf, plan, type Experiment, type Run } from "./worth/plan.ts";
import { depths } from "./worth/score.ts";
import { lineOf, pairsOf, type Pair } from "./worth/summary.ts";
import { trainAndScore, type Row } from "./worth/train-and-score.ts";

/** What a row keeps of a run beside its settings. */
type WorthResult = Omit<Row, "key" | "run" | "error">;

type Size = Omit<Experiment, "seeds" | "data" | "sides" | "lanes">;
const sizes: Readonly<Record<Budget, readonly Size[]>> = {
  smoke: [
    { shape: "tiny-16", variants: ["default"], rates: [2e-3], tokens: 1e4, depth: 64, cut: 512, precision: "float32" },
  ],
  minutes: [
    {
      shape: "base-32",
      variants: ["default"],
      rates: [2e-3],
      tokens: 20e6,
      depth: 6144,
      cut: 8192,
      precision: "bfloat16",
    },
  ],
  full: ["base-32", "base-128"].map((shape) => ({
    shape,
    variants: ["default", "plain"],
    rates: [1e-3, 2e-3, 4e-3],
    tokens: 95e6,
    depth: 0,
    cut: 8192,
    precision: "bfloat16",
  })),
};

const DATA = "moby-dick";

export const worth = experiment<Run, WorthResult>({
  name: "worth",
  title: "What the memory is worth",
  claim:
    "without its memory the model is much worse: a perplexity of 25.57 in place of 22.74 on WikiText-103, 1.745 in place of 1.594 on MNIST (Tables 1 and 2).",
  needs: "text (--data, as bytes; default: moby-dick), or two token files, TRAIN.tokens,VALID.tokens",
  async plan({ budget, seeds, data }) {
    const spec = data ?? DATA;
    await using texts = await openTexts(spec);
    const text = sourceName(spec.split(",")[0]!, texts.train);
    return sizes[budget].flatMap((size) => plan(experimentOn(size, seeds, text)));
  },
  async run(settings, context) {
    await using texts = await openTexts(context.data ?? DATA);
    const {
      key: _,
      run: __,
      error,
      ...result
    } = await trainAndScore(settings, texts.train, texts.valid, { device: context.device, threads: 0 }, context);
    if (error !== undefined) throw new MemformerError("NAN_LOSS", error);
    return result;
  },
  report(runs, rows) {
    const seeds = [...new Set(runs.map(({ seed }) => seed))],
      known = new Map<string, Row>();
    for (const run of runs) {
      const result = rows(run)?.result;
      if (result !== undefined) known.set(keyOf(run), { ...result, key: keyOf(run), run });
    }
    return Object.values(sizes)
      .flat()
      .filter((size) => runs.some((run) => run.shape === size.shape && run.tokens === size.tokens))
      .map((size) => sectionOf(experimentOn(size, seeds, runs[0]!.data), known));
  },
});

function experimentOn(size: Size, seeds: readonly number[], data: string): Experiment {
  return { ...size, seeds, data, sides: ["memory", "twin"], lanes: undefined };
}

function sectionOf(of: Experiment, known: ReadonlyMap<string, Row>): Section {
  const pairs = pairsOf(of, known),
    lines = pairs.map(lineOf);
  const columns = Object.keys(lines[0] ?? { variant: "", worth: "" });
  const missing = of.variants.filter((variant) => !pairs.some((pair) => pair.variant === variant));
  const table: Table = {
    title: `${of.shape}: nats a token (rates, seconds: memory, then twin)`,
    columns,
    rows: [
      ...lines.map((line) => columns.map((column) => String(line[column]))),
      ...missing.map((variant) => [variant, ...columns.slice(1).map(() => cell([undefined], () => 0))]),
    ],
    note: `Worth: how much worse the twin is, each side at its best rate; by depth in the document. Shuffled, initial: what another text's memory costs, and the learned start. ${of.data}, ${of.tokens / 1e6} M tokens.`,
  };
  const depth = (pair: Pair): (readonly [number, number])[] =>
    depths.map((name, i) => [i + 1, pair.worthByDepth[name]]);
  return {
    title: of.shape,
    tables: [table],
    charts: [
      {
        name: `worth-${of.shape}`,
        title: "Worth by depth: first 1,024 tokens, to 4,096, beyond",
        x: { label: "depth", scale: "linear" },
        y: { label: "nats a token that the twin is worse by", scale: "linear" },
        series: of.variants.map((variant) => {
          const pair = pairs.find((found) => found.variant === variant);
          return { name: variant, points: pair === undefined ? [] : depth(pair) };
        }),
      },
    ],
  };
}
