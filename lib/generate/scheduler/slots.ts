/** The slots of one decoder: documents join and leave between steps, each at its own place in its segment. */
import { MemformerError } from "../../errors.ts";
import { applyOperator, placed, Tensor } from "../../engine/tensor.ts";
import type { State } from "../../model/state.ts";
import type { Decoder, RunSampling } from "../decoder.ts";
import type { DocumentState } from "../document-state.ts";
import { openSegments } from "../opened-segments.ts";
import type { SessionModel } from "../session-model.ts";

/** Logits of some rows; dispose of them. */
export interface SlotLogits<Row> {
  readonly rows: readonly Row[];
  /** (R, V), in the order of `rows`. */
  readonly logits: Tensor;
}

/** Who sits in a slot. */
export interface Seated {
  readonly document: DocumentState;
  /** Tokens drawn for it that its document does not hold yet. */
  readonly underWay: number;
}

/** A run under way. */
export interface SlotRun<Row> {
  readonly rows: readonly Row[];
  /** How many tokens each of them draws. */
  readonly draws: readonly number[];
  /** What they have drawn, (N, R): a draw after the other; -1 where a row could draw nothing. */
  readonly tokens: Promise<readonly number[]>;
  /** Whether the next may be enqueued behind it: all rows have {@link Slots.logits} after it. */
  readonly goesOn: boolean;
}

/** How rows draw in a run. */
export interface SlotDraws<Row> {
  /** Tokens of a row, at most; of one with less {@link Slots.room} so many. */
  readonly count: number;
  readonly sampling: (row: Row) => RunSampling;
  /** Where the draws of a row fall. */
  readonly points: (row: Row, count: number) => Float64Array;
  /** Rows that will draw more. */
  readonly onward: ReadonlySet<Row>;
  /** Whether the next run is to come behind it; else the last token is taken in behind the reading of them all. */
  readonly through: boolean;
}

export class Slots<Row extends Seated> implements Disposable {
  readonly #model: SessionModel;
  readonly #decoder: Decoder;
  readonly #seats: (Row | undefined)[];
  readonly #revisions: unknown[];
  #ahead: SlotLogits<Row>[] = []; // of tokens that were drawn and taken in before anyone looked at them

  constructor(model: SessionModel, decoder: Decoder) {
    this.#model = model;
    this.#decoder = decoder;
    this.#seats = new Array<undefined>(decoder.slots).fill(undefined);
    this.#revisions = new Array<undefined>(decoder.slots).fill(undefined);
  }

  get count(): number {
    return this.#seats.length;
  }

  has(row: Row): boolean {
    return this.#seats.includes(row);
  }

  /** Frees a row's slot, if it has one. */
  leave(row: Row): void {
    const slot = this.#seats.indexOf(row);
    if (slot < 0) return;
    this.#seats[slot] = undefined;
    this.#revisions[slot] = undefined;
    this.#ahead = this.#ahead.filter(({ rows, logits }) => {
      const wanted = rows.some((other) => this.has(other));
      if (!wanted) logits.dispose();
      return wanted;
    });
  }

  /** How many tokens a row may draw after all that it has taken in: the segment's last is taken in by nobody. */
  room(row: Row): number {
    return this.#model.config.segmentLength - this.#held(row);
  }

  /**
   * Draws tokens of each row from logits that are its latest, and takes them in, but for the last of a segment. The
   * {@link logits} after them of rows that draw more are under way then, where their segment goes on. Frees the logits.
   */
  run(batch: SlotLogits<Row>, { count: most, sampling, points, onward, through }: SlotDraws<Row>): SlotRun<Row> {
    const drawsOf = (row: Row): number => Math.min(most, this.room(row));
    const rows = [...batch.rows].sort((a, b) => drawsOf(b) - drawsOf(a)), // stable
      draws = rows.map(drawsOf),
      count = draws[0]!;
    const places = new Float64Array(count * rows.length);
    for (const [r, row] of rows.entries())
      for (const [n, point] of points(row, draws[r]!).entries()) places[n * rows.length + r] = point;
    const inside = rows.filter((row) => onward.has(row) && this.room(row) > count),
      goesOn = through && inside.length > 0 && rows.every((row) => this.room(row) > count);
    using logits = ordered(batch, rows, this.#model.device);
    const slots = rows.map((row) => this.#seats.indexOf(row)),
      drawn = this.#decoder.run(logits, places, rows.map(sampling), slots, goesOn, draws);
    using ids = drawn.tokens;
    const tokens = ids.data().then((read) => Array.from(read, Number));
    tokens.catch(() => undefined); // who waits for it hears of it, and nobody has to
    if (goesOn) this.#ahead.push({ rows, logits: drawn.logits });
    else {
      drawn.logits.dispose();
      using last = applyOperator("aten::select.int", ids, 0, count - 1);
      if (inside.length > 0) this.#stepAhead(rows, last, inside);
    }
    return { rows, draws, tokens, goesOn };
  }

  /**
   * Takes in tokens (R) int64 that rows drew from the logits they got last, before anyone has looked at them; those
   * whose segment they complete are left out. The next {@link logits} of these rows are under way then.
   */
  goAhead(rows: readonly Row[], tokens: Tensor): void {
    const { segmentLength } = this.#model.config;
    const some = rows.filter((row) => {
      const held = this.#held(row);
      return held >= 0 && held === row.document.current.length && held + 1 < segmentLength;
    });
    if (some.length > 0) this.#stepAhead(rows, tokens, some);
  }

  /** A step of `some` rows by what all of these have drawn. */
  #stepAhead(rows: readonly Row[], tokens: Tensor, some: readonly Row[]): void {
    // A row that can draw nothing has -1; it fails by itself, and the others go on.
    using drawn = applyOperator("aten::clamp_min", tokens, 0);
    const chosen = some.length === rows.length ? drawn : chosenRows(drawn, rows, some, this.#model.device);
    const logits = this.#decoder.step(
      chosen,
      some.map((row) => this.#seats.indexOf(row)),
    );
    if (chosen !== drawn) chosen.dispose();
    this.#ahead.push({ rows: some, logits });
  }

  /**
   * The logits of the next token of each row: a segment is begun where it has to be, tokens that wait are taken in, and
   * those of one token each step together. The other rows lose their slots where these need them. Of rows with tokens
   * under way: the logits after those, which a {@link run} that goes on has left. Throws what the engine does; rows
   * that are not in a result failed, and have left.
   */
  logits(rows: readonly Row[]): SlotLogits<Row>[] {
    if (rows.length > this.count)
      throw new MemformerError("CONFIG", `${rows.length} rows are more than the ${this.count} slots`);
    this.#seat(rows);
    const made = this.#taken(rows),
      begun: Row[] = [],
      stepped: Row[] = [],
      filled: Row[] = [];
    const there = new Set(made.flatMap((batch) => batch.rows));
    for (const row of rows) {
      if (there.has(row)) continue;
      const ahead = row.document.current.length - this.#held(row);
      if (ahead <= 0 || this.#held(row) < 0) begun.push(row);
      else (ahead === 1 ? stepped : filled).push(row);
    }
    if (begun.length > 0) {
      const logits = this.#begin(begun);
      const fresh = begun.filter(({ document }) => document.current.length === 0);
      if (fresh.length === begun.length) made.push({ rows: begun, logits });
      else {
        if (fresh.length > 0) made.push({ rows: fresh, logits: chosenRows(logits, begun, fresh, this.#model.device) });
        logits.dispose();
        filled.push(...begun.filter((row) => !fresh.includes(row)));
      }
    }
    for (const row of filled) {
      const rest = row.document.current.slice(this.#held(row)),
        slot = this.#seats.indexOf(row);
      made.push({ rows: [row], logits: this.#decoder.prefill(rest, slot) });
    }
    if (stepped.length > 0) {
      const tokens = stepped.map(({ document }) => document.current.at(-1)!);
      const logits = this.#decoder.step(
        tokens,
        stepped.map((row) => this.#seats.indexOf(row)),
      );
      made.push({ rows: stepped, logits });
    }
    return made;
  }

  /**
   * Whether the row's slot has computed all that the memory is written from: the last token of its complete segment was
   * drawn from the slot's logits, by the weights of now.
   */
  endsHere(row: Row): boolean {
    return this.#held(row) === this.#model.config.segmentLength - 1;
  }

  /** The states after the segments of these rows, which all {@link endsHere}. Their slots stay theirs. */
  end(rows: readonly Row[]): State[] {
    const slots = rows.map((row) => this.#seats.indexOf(row)),
      parts = this.#decoder.end(slots);
    for (const slot of slots) this.#revisions[slot] = undefined;
    if (rows.length === 1) return [parts];
    const states = rows.map((_, i) => parts.map((part) => applyOperator("aten::narrow_copy", part, 0, i, 1)));
    for (const part of parts) part.dispose();
    return states;
  }

  [Symbol.dispose](): void {
    for (const { logits } of this.#ahead.splice(0)) logits.dispose();
    this.#decoder.dispose();
  }

  /** Logits that are under way of these rows; those of others are kept for them. */
  #taken(rows: readonly Row[]): SlotLogits<Row>[] {
    const taken: SlotLogits<Row>[] = [],
      kept: SlotLogits<Row>[] = [],
      { device } = this.#model;
    for (const { rows: all, logits } of this.#ahead) {
      const valid = all.filter((row) => this.#held(row) === row.document.current.length + row.underWay);
      const wanted = valid.filter((row) => rows.includes(row)),
        others = valid.filter((row) => !rows.includes(row));
      const part = (some: readonly Row[]): SlotLogits<Row> => {
        return { rows: some, logits: chosenRows(logits, all, some, device) };
      };
      if (wanted.length === all.length) {
        taken.push({ rows: wanted, logits });
        continue;
      }
      if (wanted.length > 0) taken.push(part(wanted));
      if (others.length > 0) kept.push(part(others));
      logits.dispose();
    }
    this.#ahead = kept;
    return taken;
  }

  /** Tokens of the row's open segment in its slot; -1: none, or by weights that have changed. */
  #held(row: Row): number {
    const slot = this.#seats.indexOf(row);
    if (slot < 0 || this.#revisions[slot] !== (this.#model.revision ?? 0)) return -1;
    return this.#decoder.position(slot) ?? -1;
  }

  #seat(rows: readonly Row[]): void {
    for (const row of rows) {
      if (this.has(row)) continue;
      let slot = this.#seats.indexOf(undefined);
      if (slot < 0) slot = this.#seats.findIndex((other) => !rows.includes(other!));
      this.#seats[slot] = row;
      this.#revisions[slot] = undefined;
    }
  }

  #begin(rows: readonly Row[]): Tensor {
    const slots = rows.map((row) => this.#seats.indexOf(row));
    using opened = openSegments(
      this.#model,
      rows.map(({ document }) => document),
    );
    const logits = this.#decoder.begin(opened.segment, opened.state, slots);
    for (const slot of slots) this.#revisions[slot] = this.#model.revision ?? 0;
    return logits;
  }
}

/** Some rows of (R, V). */
export function chosenRows<Row>(logits: Tensor, all: readonly Row[], some: readonly Row[], device: string): Tensor {
  const ids = BigInt64Array.from(some, (row) => BigInt(all.indexOf(row)));
  using index = placed(Tensor.from(ids, [ids.length]), device);
  return applyOperator("aten::index_select", logits, 0, index);
}

/** The logits of rows in another order; what they were is freed. */
function ordered<Row>({ rows, logits }: SlotLogits<Row>, order: readonly Row[], device: string): Tensor {
  if (rows.every((row, i) => row === order[i])) return logits;
  using given = logits;
  return chosenRows(given, rows, order, device);
}
