/**
 * The draws of one generation, in order. Where a draw needs nothing of the tokens before it but their logits, runs of
 * them are under way before any of these tokens is known: the engine does not wait for JavaScript.
 */
import type { Tensor } from "../engine/tensor.ts";
import type { Drawing, Drawn, LogitsContext } from "./draw.ts";
import type { OpenSegment } from "./open-segment.ts";
import { unfitLogits } from "./sample.ts";

/** Draws of a run at most, after a first of one: the first token comes at once. */
const LONGEST = 4;
/** Runs under way at once. What they draw after the end of a generation is computed for nothing. */
const RUNS = 2;

/** What draws are made from. */
export interface DrawSource {
  /**
   * The logits (1, V) of the next token. `open` has computed them, owns them, and can go ahead; else the caller does.
   */
  logits(): { readonly logits: Tensor; readonly open: OpenSegment | undefined };
  /** Of the weights: when it changes, what is under way is computed anew. */
  revision(): unknown;
}

export class DrawQueue {
  readonly #drawing: Drawing;
  readonly #place: LogitsContext;
  readonly #source: DrawSource;
  readonly #runs: Promise<number[]>[] = []; // under way
  #known: number[] = []; // drawn, and not handed out
  #underWay = 0; // draws of #runs
  #longest = 1; // of the next run
  #complete = false; // the last run ended the segment, or the generation
  #open: OpenSegment | undefined;
  #revision: unknown;

  /** `place`: of the next token; it moves with what is drawn. */
  constructor(drawing: Drawing, place: LogitsContext, source: DrawSource) {
    [this.#drawing, this.#place, this.#source] = [drawing, place, source];
  }

  /**
   * The next token, of at most `left`. Rejects as {@link Drawing.draw} does; the open segment has to forget what it
   * holds then.
   */
  async next(left: number): Promise<Drawn> {
    if (this.#revision !== this.#source.revision()) this.#drop();
    if (this.#known.length === 0) {
      if (this.#runs.length === 0) {
        const { logits, open } = this.#source.logits();
        [this.#open, this.#revision, this.#complete] = [open, this.#source.revision(), false];
        if (open === undefined || !this.#drawing.runs) return this.#one(logits, left);
      }
      while (this.#runs.length < RUNS && this.#run(left)); // each is enqueued by the condition
      this.#known = await this.#runs[0]!;
      void this.#runs.shift();
      this.#underWay -= this.#known.length;
      this.#open!.wentAhead([...this.#known]);
    }
    const id = this.#known.shift()!;
    if (id < 0) throw unfitLogits();
    return { id };
  }

  /** Leaves what is under way, which {@link OpenSegment} finds to be nobody's. */
  #drop(): void {
    [this.#runs.length, this.#known, this.#underWay, this.#longest] = [0, [], 0, 1];
  }

  /**
   * Enqueues the next run, if there is one to come. Nothing is known when it is called: #place is where #runs begin.
   */
  #run(left: number): boolean {
    const { room } = this.#open!,
      count = Math.min(this.#longest, left - this.#underWay, room);
    if (this.#complete || count < 1) return false;
    const points = this.#drawing.points(this.#place.position + this.#underWay, count);
    this.#complete = count === room || count === left - this.#underWay;
    const tokens = this.#open!.run(points, this.#drawing.sampling, !this.#complete);
    const drawn = tokens.data().then((ids) => Array.from(ids as BigInt64Array, Number));
    drawn.catch(() => undefined); // who waits for it hears of it, and nobody has to
    tokens.dispose();
    this.#runs.push(drawn);
    this.#underWay += count;
    this.#longest = Math.min(2 * this.#longest, LONGEST);
    return true;
  }

  /** A draw by itself. */
  async #one(logits: Tensor, left: number): Promise<Drawn> {
    const open = this.#open;
    try {
      const drawn = await this.#drawing.draw(logits, this.#place, (token) => {
        if (left > 1) open?.goAhead(token);
      });
      open?.wentAhead([drawn.id]);
      return drawn;
    } finally {
      if (open === undefined) logits.dispose();
    }
  }
}
