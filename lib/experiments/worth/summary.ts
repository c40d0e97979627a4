/** What rows say: of each variant the best rate of both sides, and the memory's worth there. */
import { keyOf, runOf, type Experiment, type Side } from "./plan.ts";
import { depths, type Depth, type MemoryKind, type Scores } from "./score.ts";
import type { Row } from "./train-and-score.ts";

/** A token's nats: of all text, or of one depth. NaN where none was scored. */
export function natsOf(scores: Scores | undefined, memory: MemoryKind = "whole", depth?: Depth): number {
  if (scores === undefined) return NaN;
  const parts = (depth === undefined ? depths : [depth]).map((name) => scores[memory][name]);
  return parts.reduce((sum, { nats }) => sum + nats, 0) / parts.reduce((sum, { tokens }) => sum + tokens, 0);
}

export interface Pair {
  readonly variant: string;
  readonly memory: readonly Row[];
  readonly twin: readonly Row[];
  /** The rates that are best by the mean of the seeds. */
  readonly rate: { readonly memory: number; readonly twin: number };
  /** Twin less model, nats a token, one a seed that both sides have. */
  readonly worth: readonly number[];
  readonly worthByDepth: Readonly<Record<Depth, number>>;
}

/** The pairs that have a row on both sides at least. */
export function pairsOf(experiment: Experiment, rows: ReadonlyMap<string, Row>): Pair[] {
  return experiment.variants.flatMap((variant): Pair[] => {
    const best = (side: Side): { rate: number; rows: Row[] } | undefined => {
      const byRate = experiment.rates
        .map((rate) => ({
          rate,
          rows: experiment.seeds
            .flatMap((seed) => rows.get(keyOf(runOf(experiment, variant, side, rate, seed))) ?? [])
            .filter(({ scores }) => scores !== undefined),
        }))
        .filter((group) => group.rows.length > 0);
      return byRate.sort(
        (a, b) => mean(a.rows.map((row) => natsOf(row.scores))) - mean(b.rows.map((row) => natsOf(row.scores))),
      )[0];
    };
    const memory = best("memory"),
      twin = best("twin");
    if (memory === undefined || twin === undefined) return [];
    const seeds = memory.rows.flatMap((row) =>
      twin.rows.filter((other) => other.run.seed === row.run.seed).map((other) => [row, other] as const),
    );
    const worthAt = (depth?: Depth): number[] =>
      seeds.map(([row, other]) => natsOf(other.scores, "whole", depth) - natsOf(row.scores, "whole", depth));
    return [
      {
        variant,
        memory: memory.rows,
        twin: twin.rows,
        rate: { memory: memory.rate, twin: twin.rate },
        worth: worthAt(),
        worthByDepth: Object.fromEntries(depths.map((depth) => [depth, mean(worthAt(depth))])) as Record<Depth, number>,
      },
    ];
  });
}

export function mean(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

/** The table's line of a pair. */
export function lineOf({ variant, memory, twin, rate, worth, worthByDepth }: Pair): Record<string, string | number> {
  const nats = mean(memory.map((row) => natsOf(row.scores))),
    ofTwin = mean(twin.map((row) => natsOf(row.scores)));
  const costs = (kind: MemoryKind): number => mean(memory.map((row) => natsOf(row.scores, kind))) - nats;
  const { trained, bytes, scores } = memory[0]!,
    tokens = depths.reduce((sum, depth) => sum + scores!.whole[depth].tokens, 0);
  const spread = worth.length > 1 ? ` (${fixed(Math.min(...worth))} to ${fixed(Math.max(...worth))})` : "";
  return {
    variant,
    seeds: worth.length,
    rates: `${rate.memory} ${rate.twin}`,
    nats: fixed(nats),
    "of twin": fixed(ofTwin),
    worth: `${fixed(mean(worth))}${spread}`,
    "to 1,024": fixed(worthByDepth.first),
    "to 4,096": fixed(worthByDepth.middle),
    beyond: fixed(worthByDepth.beyond),
    shuffled: fixed(costs("shuffled")),
    initial: fixed(costs("initial")),
    perplexity: Math.exp(nats).toFixed(2),
    "twin's": Math.exp(ofTwin).toFixed(2),
    "bits a byte": bytes > 0 ? ((nats * tokens) / Math.LN2 / bytes).toFixed(4) : "-",
    "M tokens": (trained / 1e6).toFixed(1),
    seconds: `${Math.round(mean(memory.map(({ seconds }) => seconds)))} ${Math.round(mean(twin.map(({ seconds }) => seconds)))}`,
  };
}

function fixed(nats: number): string {
  return Number.isFinite(nats) ? nats.toFixed(3) : "-";
}
