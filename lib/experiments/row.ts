/** What a run is made of and what it gives: plain JSON, a line of the file of rows. */

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
/** All that decides what a run gives: the key of its row. */
export type Settings = Readonly<Record<string, Json>>;
/** What a run gave. */
export type Result = Readonly<Record<string, Json>>;

/** A line of the file of rows. */
export interface Row<S = Settings, R = Result> {
  readonly experiment: string;
  readonly settings: S;
  /** Undefined where the run failed as a run may: its loss was not a number, or memory did not suffice. */
  readonly result?: R | undefined;
  readonly error?: string | undefined;
  readonly seconds: number;
  /** What it was measured on. */
  readonly machine: Readonly<Record<string, string | number>>;
}

/** The rows that there are, by their settings. */
export type Rows<S = Settings, R = Result> = (settings: S) => Row<S, R> | undefined;
