/**
 * One future of the text: a session of the server, what was read and said in it, and what its memory did. `changed` is
 * called whenever something to be seen has changed.
 */
import { align, openTurn } from "./turn.js";
import { MemoryFeed } from "./memory-feed.js";

const LONGEST = 1 << 18; // characters that are sent with the wish to go on; longer texts are streamed before it

export class Future {
  /** Something under way: `{ kind: "reading" | "generating", abort }`. */
  busy;

  constructor(api, info, changed, from) {
    this.api = api;
    this.changed = changed;
    this.id = info.id;
    this.position = info.position;
    this.bytes = info.bytes;
    this.turns = from?.turns.map((turn) => ({ ...turn, tokens: [...turn.tokens] })) ?? [];
    this.memory = new MemoryFeed(api, info.id, from?.memory, () => {
      this.#align();
      this.changed();
    });
  }

  /** Reads `text` and, with `options`, goes on. Whatever happens, what has been handed out is the session's. */
  async run(kind, text, label, options) {
    const abort = new AbortController();
    this.busy = { kind, abort };
    this.changed();
    const watch = setInterval(() => void this.refresh(), 1000); // a book takes a while
    try {
      await this.memory.start(); // it has to be looked at from the first segment on
      const apart = options === undefined || text.length > LONGEST;
      if (apart) await this.#read(text, label, abort.signal);
      if (options !== undefined) await this.#generate(apart ? "" : text, options, abort.signal);
    } catch (error) {
      if (!abort.signal.aborted) throw error;
    } finally {
      clearInterval(watch);
      await this.#settled();
      this.busy = undefined;
      this.changed();
    }
  }

  stop() {
    this.busy?.abort.abort();
  }

  close() {
    this.stop();
    this.memory.close();
  }

  /** How much it has read, from the server. Whether a turn of it is still under way there. */
  async refresh() {
    try {
      const { position, bytes, busy } = await this.api.info(this.id);
      this.position = position;
      this.bytes = bytes;
      this.changed();
      return busy === true;
    } catch {
      return false; // what the next turn meets is told then
    }
  }

  /** Waits until the server is done with a turn, also with one that was left. */
  async #settled() {
    for (let asked = 0; asked < 50 && (await this.refresh()); asked++)
      await new Promise((resolve) => setTimeout(resolve, 20 * (1 + asked)));
  }

  #align() {
    for (const [i, turn] of this.turns.entries()) {
      const before = this.turns[i - 1];
      if (turn.start === undefined && before?.at !== undefined && before.aligned === before.text.length)
        turn.start = before.at;
      align(turn, this.memory.rows);
    }
  }

  async #read(text, label, signal) {
    const turn = openTurn("read", label ?? "You wrote", text, this.position);
    this.turns.push(turn);
    try {
      const { position } = await this.api.read(this.id, text, signal);
      turn.end = this.position = position;
      this.#align();
    } catch (error) {
      this.turns.splice(this.turns.indexOf(turn), 1); // all is read, or nothing
      throw error;
    }
  }

  async #generate(text, options, signal) {
    const before = this.position,
      wrote = text === "" ? undefined : openTurn("read", "You wrote", text, before),
      said = openTurn("model", "The model goes on", "", text === "" ? before : undefined);
    if (wrote !== undefined) this.turns.push(wrote);
    this.turns.push(said);
    let heard = false;
    try {
      const ask = { ...options, ...(text !== "" && { text }) };
      for await (const piece of this.api.generate(this.id, ask, signal)) {
        heard = true;
        said.text += piece.text;
        if (piece.finish !== null) this.#finish(piece, wrote, said);
        this.changed();
      }
    } catch (error) {
      await this.#settled();
      if (heard) said.end = this.position;
      else if (this.position === before) this.turns = this.turns.filter((turn) => turn !== wrote);
      else if (wrote !== undefined) wrote.end = this.position; // it was read; nothing had been said yet
      throw error;
    } finally {
      said.live = false;
      if (said.text === "" && said.note === undefined) this.turns = this.turns.filter((turn) => turn !== said);
    }
  }

  #finish({ position, usage, seed, finish }, wrote, said) {
    said.start = position - usage.generated;
    said.end = this.position = position;
    if (wrote !== undefined) wrote.end = said.start;
    said.note = { stop: "stopped at a stop text", length: "", end: "the document ended" }[finish];
    said.seed = seed;
    this.#align();
  }
}
