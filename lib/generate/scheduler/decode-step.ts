/** What a step of a scheduler draws: a run of all its turns where they can, else a token of each. */
import { applyOperator } from "../../engine/tensor.ts";
import type { Drawn } from "../draw.ts";
import { unfitLogits } from "../sample.ts";
import type { SessionModel } from "../session-model.ts";
import { drawBatch, type Draws } from "./draw-batch.ts";
import { RunQueue, type RunLimits } from "./run-queue.ts";
import type { ScheduledTurn } from "./scheduled-turn.ts";
import { chosenRows, type SlotLogits, type Slots } from "./slots.ts";

/** Who is told of what turns draw. */
export interface DecodeOwner {
  /** It has drawn so many tokens. */
  charge(turn: ScheduledTurn, tokens: number): void;
  /** It cannot go on. */
  fail(turn: ScheduledTurn, error: unknown): void;
}

export class DecodeSteps {
  readonly #model: SessionModel;
  readonly #slots: Slots<ScheduledTurn>;
  readonly #runs: RunQueue;
  readonly #owner: DecodeOwner;

  constructor(model: SessionModel, slots: Slots<ScheduledTurn>, owner: DecodeOwner) {
    this.#model = model;
    this.#slots = slots;
    this.#runs = new RunQueue(model, slots);
    this.#owner = owner;
  }

  /** Whether a run is under way that a turn waits for. */
  wanted(): boolean {
    return this.#runs.wanted();
  }

  /**
   * Draws for these turns, and for those whose run is under way; turns that are in none wait for its end. Returns how
   * many turns have drawn, and how many tokens.
   */
  async step(turns: readonly ScheduledTurn[], limits: RunLimits): Promise<{ turns: number; tokens: number }> {
    if (!this.#runs.wanted() && turns.length > 0) {
      if (!RunQueue.takes(turns)) return this.#single(turns);
      this.#guard(turns, () => this.#runs.begin(turns, limits));
    }
    if (!this.#runs.wanted()) return { turns: 0, tokens: 0 };
    this.#guard(turns, () => this.#runs.goOn(turns, limits));
    const run = this.#runs.next();
    let drawn = new Map<ScheduledTurn, readonly number[]>();
    try {
      drawn = await run.drawn;
    } catch (error) {
      for (const turn of run.turns) this.#owner.fail(turn, error);
    }
    return this.#take([...drawn].map(([turn, ids]) => [turn, ids.map((id) => ({ id }))]));
  }

  /** A token of each. */
  async #single(turns: readonly ScheduledTurn[]): Promise<{ turns: number; tokens: number }> {
    let batches: SlotLogits<ScheduledTurn>[] = [];
    this.#guard(turns, () => {
      batches = this.#slots.logits(turns);
    });
    const fail = (turn: ScheduledTurn, error: unknown): void => {
      this.#owner.fail(turn, error);
    };
    const drawn = new Map<ScheduledTurn, Drawn>();
    const draws = batches.map((batch) => drawBatch(batch, this.#model.device, drawn, fail));
    this.#goAhead(draws);
    await Promise.all(draws.map(async ({ done }) => done));
    return this.#take([...drawn].map(([turn, token]) => [turn, [token]]));
  }

  /** Gives turns what they have drawn, as far as they want it, and ends the segments that it completes. */
  #take(drawn: readonly (readonly [turn: ScheduledTurn, tokens: readonly Drawn[]])[]): {
    turns: number;
    tokens: number;
  } {
    const ended: ScheduledTurn[] = [];
    let some = 0,
      all = 0;
    for (const [turn, tokens] of drawn) {
      let taken = 0,
        unfit = false,
        ends = false;
      for (const token of tokens) {
        if (turn.complete || (unfit = token.id < 0)) break;
        ends = turn.take(token, this.#model.config.bos);
        taken += 1;
      }
      if (taken > 0) {
        this.#owner.charge(turn, taken);
        some += 1;
        all += taken;
      }
      if (unfit) this.#owner.fail(turn, unfitLogits());
      else if (ends) ended.push(turn);
    }
    this.#end(ended);
    return { turns: some, tokens: all };
  }

  /** Enqueues the step after this one, of tokens that nobody has looked at yet: the engine need not wait for them. */
  #goAhead(draws: readonly Draws[]): void {
    const turns = draws.flatMap((draw) => draw.turns),
      parts = draws.flatMap((draw) => draw.tokens);
    const some = turns.filter(({ left }) => left > 1);
    this.#guard(some, () => {
      if (some.length === 0) return;
      using tokens = applyOperator("aten::cat", parts, 0);
      using chosen = some.length === turns.length ? undefined : chosenRows(tokens, turns, some, this.#model.device);
      this.#slots.goAhead(some, chosen ?? tokens);
    });
    for (const part of parts) part.dispose();
  }

  /** Segments that are complete: together those whose slots hold all of it. */
  #end(turns: readonly ScheduledTurn[]): void {
    const together = turns.filter((turn) => this.#slots.endsHere(turn));
    if (together.length > 0) {
      this.#guard(together, () => {
        const states = this.#slots.end(together);
        for (const [i, turn] of together.entries()) turn.document.advance(states[i]!);
      });
    }
    for (const turn of turns) if (!together.includes(turn) && !turn.over) this.#guard([turn], () => turn.advance());
  }

  /** Runs `work`; what it throws ends these turns. */
  #guard(turns: readonly ScheduledTurn[], work: () => void): void {
    try {
      work();
    } catch (error) {
      for (const turn of turns) this.#owner.fail(turn, error);
    }
  }
}
