/**
 * Runs of a batch: several draws of each of its turns in one call of the engine, and the next call under way before
 * anyone knows what the one before has drawn. The engine does not wait for JavaScript while the batch stays the same.
 */
import { applyOperator } from "../../engine/tensor.ts";
import type { SessionModel } from "../session-model.ts";
import type { ScheduledTurn } from "./scheduled-turn.ts";
import type { SlotLogits, SlotRun, Slots } from "./slots.ts";

/** How far a run may go. */
export interface RunLimits {
  /** Tokens of one, at most. */
  readonly longest: number;
  /** Pieces that may wait for who takes them. */
  readonly ahead: number;
}

export class RunQueue {
  readonly #model: SessionModel;
  readonly #slots: Slots<ScheduledTurn>;
  readonly #runs: SlotRun<ScheduledTurn>[] = []; // under way
  #longest = 1; // of the next: a turn's first token comes at once
  #revision: unknown;

  constructor(model: SessionModel, slots: Slots<ScheduledTurn>) {
    this.#model = model;
    this.#slots = slots;
  }

  /** Whether these turns can draw in one run: nothing but the logits decides. */
  static takes(turns: readonly ScheduledTurn[]): boolean {
    return turns.every(({ drawing }) => drawing!.runs);
  }

  /** Whether something is under way that a turn wants; forgets what none does, and what other weights draw. */
  wanted(): boolean {
    if (this.#runs.length === 0) return false;
    const some = this.#runs.some(({ rows }) => rows.some(({ complete }) => !complete));
    if (!some || this.#revision !== this.#model.revision) this.#drop();
    return this.#runs.length > 0;
  }

  /** Enqueues a run of turns that {@link takes} takes, while nothing is under way. Throws what the engine does. */
  begin(turns: readonly ScheduledTurn[], limits: RunLimits): void {
    this.#revision = this.#model.revision;
    if (turns.some(({ tokensDrawn }) => tokensDrawn === 0)) this.#longest = 1;
    this.#enqueue(turns, limits);
  }

  /**
   * Enqueues the next behind what is under way, where `turns` are all that want it and no token has to be known before.
   * Throws what the engine does.
   */
  goOn(turns: readonly ScheduledTurn[], limits: RunLimits): void {
    const newest = this.#runs.at(-1)!,
      there = new Set(newest.rows);
    if (limits.longest <= 1 || !newest.goesOn || turns.some((turn) => !there.has(turn))) return;
    const some = turns.filter((turn) => turn.decodable(limits.ahead));
    if (some.length > 0) this.#enqueue(some, limits);
  }

  /** The oldest: its turns, and what each of them gets. Where the weights have changed meanwhile that is one token. */
  next(): { readonly turns: readonly ScheduledTurn[]; readonly drawn: Promise<Map<ScheduledTurn, number[]>> } {
    const { rows, draws, tokens } = this.#runs.shift()!;
    const drawn = tokens.then((ids) => {
      const changed = this.#revision !== this.#model.revision;
      const each = rows.map((turn, row) => {
        const count = draws[row]!;
        turn.underWay -= count;
        return [turn, Array.from({ length: changed ? 1 : count }, (_, n) => ids[n * rows.length + row]!)] as const;
      });
      if (changed) this.#drop();
      return new Map(each);
    });
    return { turns: rows, drawn };
  }

  #enqueue(turns: readonly ScheduledTurn[], { longest, ahead }: RunLimits): void {
    const most = Math.min(this.#longest, longest, Math.max(...turns.map((turn) => turn.room(ahead)))),
      some = turns.filter((turn) => turn.room(ahead) >= most); // who waits for a slow taker holds nobody back
    const batch = joined(this.#slots.logits(some));
    // Half of them can draw so many. Those whose segment ends before wait for the others, what is drawn beyond the end
    // of a turn is dropped: neither shortens the runs of a batch whose turns are at different places.
    const reach = batch.rows.map((turn) => Math.min(turn.left, this.#slots.room(turn))).sort((a, b) => a - b),
      count = Math.min(most, reach[Math.floor(reach.length / 2)]!);
    const run = this.#slots.run(batch, {
      count,
      sampling: ({ drawing }) => drawing!.sampling,
      points: ({ drawing, document, underWay }, own) => drawing!.points(document.position + underWay, own),
      onward: new Set(some.filter(({ left }) => left > count)),
      through: longest > 1,
    });
    for (const [row, turn] of run.rows.entries()) turn.underWay += run.draws[row]!;
    this.#runs.push(run);
    this.#longest = Math.min(2 * this.#longest, longest);
  }

  #drop(): void {
    for (const { rows } of this.#runs.splice(0)) for (const turn of rows) turn.underWay = 0;
    this.#longest = 1;
  }
}

/** All rows together; what they were is freed. */
function joined<Row>(batches: readonly SlotLogits<Row>[]): SlotLogits<Row> {
  if (batches.length === 1) return batches[0]!;
  const parts = batches.map(({ logits }) => logits);
  const logits = applyOperator("aten::cat", parts, 0);
  for (const part of parts) part.dispose();
  return { rows: batches.flatMap(({ rows }) => rows), logits };
}
