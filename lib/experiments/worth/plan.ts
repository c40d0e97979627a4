/** The runs that an experiment is made of, and the key by which a run that has been made is known again. */
import { optionsOf, ofTwin, type Options } from "./variants.ts";
import { shapes } from "./shapes.ts";

export type Side = "memory" | "twin";

/** One training run, all that decides it. */
export interface Run extends Options {
  readonly shape: string;
  readonly side: Side;
  readonly lanes: number;
  readonly rate: number;
  readonly seed: number;
  /** To be trained on. */
  readonly tokens: number;
  /** Tokens of a held-out document that are scored at most; 0: all. */
  readonly depth: number;
  /**
   * Tokens after which a document is cut in training; 0: none is. Where there is but one document, no memory would ever
   * start anew.
   */
  readonly cut: number;
  /** Names of the data and the precision: a run on others is another one. */
  readonly data: string;
  readonly precision: string;
}

export interface Experiment {
  readonly shape: string;
  readonly variants: readonly string[];
  readonly rates: readonly number[];
  readonly seeds: readonly number[];
  readonly sides: readonly Side[];
  readonly tokens: number;
  /** Default: the shape's. */
  readonly lanes: number | undefined;
  readonly depth: number;
  readonly cut: number;
  readonly data: string;
  readonly precision: string;
}

/** The run of a variant. */
export function runOf(experiment: Experiment, variant: string, side: Side, rate: number, seed: number): Run {
  const { shape: name, tokens, depth, cut, data, precision } = experiment,
    shape = shapes[name]!,
    options = optionsOf(variant);
  const whole = { model: { ...shape.model, ...options.model }, train: { ...shape.train, ...options.train } };
  return {
    ...(side === "twin" ? ofTwin(whole) : whole),
    shape: name,
    side,
    lanes: experiment.lanes ?? shape.lanes,
    rate,
    seed,
    tokens,
    depth,
    cut,
    data,
    precision,
  };
}

/** Every run once, in an order in which pairs are complete early: by seed, rate, variant, side. */
export function plan(experiment: Experiment): Run[] {
  const runs = new Map<string, Run>();
  for (const seed of experiment.seeds)
    for (const rate of experiment.rates)
      for (const variant of experiment.variants)
        for (const side of experiment.sides) {
          const run = runOf(experiment, variant, side, rate, seed);
          runs.set(keyOf(run), run);
        }
  return [...runs.values()];
}

/** The same for the same run, whatever the order of its options. */
export function keyOf(run: Run): string {
  const sorted = (options: object): object =>
    Object.fromEntries(Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1)));
  return JSON.stringify([
    run.shape,
    run.side,
    sorted(run.model),
    sorted(run.train),
    run.lanes,
    run.rate,
    run.seed,
    run.tokens,
    run.depth,
    run.cut,
    run.data,
    run.precision,
  ]);
}
