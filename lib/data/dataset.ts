import { MemformerError } from "../errors.ts";
import type { TokenSource } from "./token-source.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** A part of a data set. */
export type Split = "train" | "valid" | "test";

/** A data set ready to stream: its splits, the tokenizer that made them, and what was found when it was checked. */
export class Dataset {
  /** The argument of `openDataset`. */
  readonly spec: string;
  readonly tokenizer: Tokenizer;
  /** Sentences on what was checked against published numbers, or done to split it. */
  readonly notes: readonly string[];
  readonly #splits: Partial<Record<Split, TokenSource>>;

  constructor(
    spec: string,
    tokenizer: Tokenizer,
    splits: Partial<Record<Split, TokenSource>>,
    notes: readonly string[] = [],
  ) {
    this.spec = spec;
    this.tokenizer = tokenizer;
    this.notes = notes;
    this.#splits = splits;
  }

  /** @throws MemformerError `DATA` if there is no such split. */
  get train(): TokenSource {
    return this.split("train");
  }

  /** @throws MemformerError `DATA` if there is no such split. */
  get valid(): TokenSource {
    return this.split("valid");
  }

  /** The test split, where the data set has one. */
  get test(): TokenSource | undefined {
    return this.#splits.test;
  }

  /** The splits there are. */
  get names(): Split[] {
    return Object.keys(this.#splits) as Split[];
  }

  /** @throws MemformerError `DATA` if there is no such split. */
  split(name: Split): TokenSource {
    const source = this.#splits[name];
    if (source) return source;
    const present = this.names.join(", ") || "none";
    throw new MemformerError("DATA", `The data set ${this.spec} has no split "${name}"; it has ${present}.`, {
      details: { dataset: this.spec, split: name },
    });
  }

  /** Closes every split. */
  async close(): Promise<void> {
    await Promise.all(Object.values(this.#splits).map((source) => source.close()));
  }

  /** For `await using`: as `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
