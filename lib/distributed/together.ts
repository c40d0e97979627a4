/** Work that every rank does, and whose failure on one is told by all. */
import { MemformerError } from "../errors.ts";
import type { Group } from "./group.ts";

type Outcome<Value> = { readonly value: Value } | { readonly failed: string };

/**
 * Where all ranks meet in the course of a piece of work, again and again: each gets what all give, unless one has
 * failed since they last met. That one throws its own error, the others DISTRIBUTED with its message. A rank that fails
 * tells the others at its next meeting, so none is left waiting.
 */
export class Meetings {
  readonly #group: Group;
  readonly #name: string;
  #told = false;

  constructor(group: Group, name: string) {
    this.#group = group;
    this.#name = name;
  }

  /** What each rank gives, in their order. Plain JSON. */
  async meet<Value>(value: Value): Promise<Value[]> {
    return this.#values(await this.#gather<Value>({ value }));
  }

  /** The others hear of this rank's failure, unless they have heard of one; returns what to throw here. */
  async fail(error: unknown): Promise<unknown> {
    if (!this.#told && this.#group.failure === undefined)
      await this.#gather({ failed: error instanceof Error ? error.message : String(error) }).catch(() => undefined);
    return error;
  }

  async #gather<Value>(outcome: Outcome<Value>): Promise<Outcome<Value>[]> {
    const outcomes = await this.#group.gather(this.#name, outcome);
    this.#told = outcomes.some((one) => "failed" in one);
    return outcomes;
  }

  #values<Value>(outcomes: readonly Outcome<Value>[]): Value[] {
    return outcomes.map((outcome, peer) => {
      if ("value" in outcome) return outcome.value;
      const { rank, step } = this.#group;
      throw new MemformerError("DISTRIBUTED", `${this.#name} has failed on rank ${peer}: ${outcome.failed}`, {
        details: { rank, peer, step, collective: this.#name },
      });
    });
  }
}

/** What `work` resolves with on each rank, in their order; where one has failed all throw, see {@link Meetings}. */
export async function together<Value>(group: Group, name: string, work: () => Promise<Value>): Promise<Value[]> {
  const meetings = new Meetings(group, name);
  let value: Value;
  try {
    value = await work();
  } catch (error) {
    throw await meetings.fail(error);
  }
  return meetings.meet(value);
}
