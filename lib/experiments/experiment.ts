/**
 * What an experiment is: a claim of the paper, the runs that test it, and what their rows say. One file each in this
 * folder, and its line in index.ts.
 */
import type { DeviceName } from "../native/cuda.ts";
import type { Chart } from "./report/chart.ts";
import type { Table } from "./report/table.ts";
import type { Result, Rows, Settings } from "./row.ts";

export type { Json, Result, Row, Rows, Settings } from "./row.ts";

/** How much an experiment may cost: seconds on a CPU, minutes on a GPU, or what a claim needs. */
export const budgets = ["smoke", "minutes", "full"] as const;
export type Budget = (typeof budgets)[number];

/** What the user asked for. */
export interface PlanOptions {
  readonly budget: Budget;
  readonly seeds: readonly number[];
  /** Text or files to read, as `memformer train --data` takes them; undefined: the experiment's own. */
  readonly data: string | undefined;
  /** Of text: `bytes`, which is the default, `gpt2`, or the path of a tokenizer.json. */
  readonly tokenizer?: string | undefined;
  /** Where the runs will compute. */
  readonly device: "cpu" | "cuda";
  /** A folder of the experiment's own, for data that it makes. */
  readonly folder: string;
}

/** What a run may use beside its settings: nothing here changes its numbers, times and bytes apart. */
export interface RunContext {
  readonly data: string | undefined;
  readonly tokenizer?: string | undefined;
  readonly device: DeviceName;
  readonly folder: string;
  /** A folder for this run's checkpoints, from which it goes on when it was killed. */
  readonly checkpoints: string;
  readonly signal: AbortSignal | undefined;
  /** Tells the user how far it is. */
  readonly note: (text: string) => void;
}

/** Pixels in a report, and in a file of its own. */
export interface Picture {
  /** A name for its file: letters, digits and hyphens. */
  readonly name: string;
  readonly title: string;
  /** A PNG in base64. */
  readonly png: string;
}

/** A part of a report. */
export interface Section {
  readonly title: string;
  readonly text?: string;
  readonly tables?: readonly Table[];
  readonly charts?: readonly Chart[];
  readonly pictures?: readonly Picture[];
}

export interface Experiment<S extends object = Settings, R extends object = Result> {
  readonly name: string;
  /** What it shows, in a few words. */
  readonly title: string;
  /** What the paper says. */
  readonly claim: string;
  /** What it reads, and where that comes from; absent: nothing. */
  readonly needs?: string;
  /** Its runs in the order in which they are made. Throws MemformerError DATA for data that is not there. */
  plan(options: PlanOptions): Promise<readonly S[]>;
  run(settings: S, context: RunContext): Promise<R>;
  report(runs: readonly S[], rows: Rows<S, R>): readonly Section[];
}

/** An experiment whose settings and results have types of their own, as the registry keeps it. */
export function experiment<S extends object, R extends object>(of: Experiment<S, R>): Experiment {
  return of as unknown as Experiment;
}
