/**
 * The text of one generation: tokens become pieces of whole characters that are no part of a stop string, each with the
 * tokens whose text it completes.
 */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import type { Drawn, TokenLogprob } from "./draw.ts";
import { StopFinder } from "./stop-strings.ts";

/**
 * Why a generation ended: a stop string was met, as many tokens were drawn as asked for, or the document ended (BOS was
 * drawn).
 */
export type FinishReason = "stop" | "length" | "end";

/** A token of a {@link Piece}. */
export interface GeneratedToken {
  readonly id: number;
  /** Where its text begins in the generation's text, in UTF-16 units. */
  readonly offset: number;
  /** With the option `logprobs`: the model's own log-probability of it, in nats. */
  readonly logprob?: number;
  /** With `logprobs` above 0: the likeliest tokens in its place, the likeliest first. */
  readonly top?: readonly TokenLogprob[];
}

/** What a generation hands out at a time. */
export interface Piece {
  /** Whole characters, none of them part of a stop string. Empty in a last piece that has no more to say. */
  readonly text: string;
  /** The tokens whose text ends in this piece. From now on they are part of the session. */
  readonly tokens: readonly GeneratedToken[];
  /** In the last piece why it is the last; null before. */
  readonly finish: FinishReason | null;
  /** The stop string that was met. */
  readonly stop?: string;
}

interface Waiting extends GeneratedToken {
  /** Where its text ends; undefined while it is the beginning of a character. */
  end: number | undefined;
}

/** A piece that was made. */
interface Made {
  readonly tokens: readonly GeneratedToken[];
  /** Where its text ends. */
  readonly end: number;
  /** Of the last piece. */
  readonly rest?: Omit<Remainder, "handedOut">;
}

/** What is left of tokens drawn and not handed out, when a generation is over. */
export interface Remainder {
  /** Tokens handed out, but for `beginning`. */
  readonly handedOut: number;
  /** Tokens of the text that was handed out of a token which was not whole. */
  readonly beginning: readonly number[];
  /** Tokens handed out whose character is not complete: the next generation goes on with it. */
  readonly unfinished: readonly number[];
}

export class Turn {
  readonly #tokenizer: Tokenizer;
  readonly #decoder: ReturnType<Tokenizer["decoder"]>;
  readonly #stops: StopFinder;
  readonly #before: readonly number[];
  readonly #waiting: Waiting[] = []; // in no piece yet
  readonly #made: Made[] = []; // not handed out yet
  #text = ""; // decoded, from #from on
  #from = 0; // where the text of the first token begins that is not handed out
  #decoded = 0;
  #released = 0; // in pieces
  #handedOut = 0;
  #seen = 0; // characters handed out
  #rest: Made["rest"];

  /**
   * `context`: the tokens before it, of which the last `unfinished` began a character that has not been handed out.
   */
  constructor(
    tokenizer: Tokenizer,
    context: readonly number[],
    unfinished: readonly number[],
    stops: readonly string[],
  ) {
    this.#tokenizer = tokenizer;
    this.#before = unfinished;
    this.#decoder = tokenizer.decoder(context.slice(0, Math.max(0, context.length - unfinished.length)));
    this.#decoder.push(unfinished);
    this.#stops = new StopFinder(stops);
  }

  /** Takes a token in. Returns what can be handed out; undefined: nothing yet. A piece with `finish` is the last. */
  take(drawn: Drawn): Piece | undefined {
    this.#waiting.push({ ...drawn, offset: this.#decoded, end: undefined });
    const { text, stop } = this.#decode(this.#decoder.push([drawn.id]));
    if (stop !== undefined) return this.#last(text, "stop", stop);
    const tokens = this.#complete();
    if (text === "" && tokens.length === 0) return undefined;
    this.#made.push({ tokens, end: this.#released });
    return { text, tokens, finish: null };
  }

  /** The last piece, when no more tokens are drawn. */
  finish(reason: "length" | "end"): Piece {
    const rest = this.#decoder.end();
    // Half a character waits for the next generation, unless the document is over.
    const waits = reason === "length" && rest.includes("\ufffd");
    const held = waits ? this.#waiting.filter(({ end }) => end === undefined).map(({ id }) => id) : [];
    const unfinished = waits && this.#decoded === 0 ? [...this.#before, ...held] : held;
    const { text, stop } = this.#decode(waits ? "" : rest);
    if (stop !== undefined) return this.#last(text, "stop", stop);
    const free = this.#stops.end();
    this.#released += free.length;
    for (const token of this.#waiting) token.end ??= this.#decoded;
    return this.#last(text + free, reason, undefined, unfinished);
  }

  /** The first piece that was made and not handed out is handed out: what it holds is part of the session. */
  handOut(): void {
    const { tokens, end, rest } = this.#made.shift()!;
    this.#handedOut += tokens.length;
    this.#seen = end;
    this.#rest = rest;
    const start = this.#first()?.offset ?? this.#decoded;
    this.#text = this.#text.slice(start - this.#from);
    this.#from = start;
  }

  /** Tokens of pieces that were handed out. */
  get handedOut(): number {
    return this.#handedOut;
  }

  /** What a session keeps of it: what was handed out, of a token that was handed out in part its beginning. */
  get remainder(): Remainder {
    const handedOut = this.#handedOut;
    if (this.#rest !== undefined) return { handedOut, ...this.#rest };
    const beginning = this.#beginning(this.#first(), this.#seen);
    return { handedOut, beginning, unfinished: handedOut === 0 && beginning.length === 0 ? this.#before : [] };
  }

  /** The first token that was not handed out. */
  #first(): GeneratedToken | undefined {
    return this.#made.find(({ tokens }) => tokens.length > 0)?.tokens[0] ?? this.#waiting[0];
  }

  #decode(text: string): { text: string; stop?: string } {
    if (text !== "") {
      this.#decoded += text.length;
      this.#text += text;
      for (const token of this.#waiting) token.end ??= this.#decoded;
    }
    const released = this.#stops.push(text);
    this.#released += released.text.length;
    return released;
  }

  /** The waiting tokens whose text has been released to its end; they wait no more. */
  #complete(): GeneratedToken[] {
    let count = 0;
    while (count < this.#waiting.length && (this.#waiting[count]!.end ?? Infinity) <= this.#released) count++;
    return this.#waiting.splice(0, count).map(({ end: _, ...token }) => token);
  }

  #last(text: string, finish: FinishReason, stop?: string, unfinished: readonly number[] = []): Piece {
    const tokens = this.#complete(),
      cut = this.#waiting[0];
    const beginning = this.#beginning(cut, this.#released);
    this.#made.push({ tokens, end: this.#released, rest: { beginning, unfinished } });
    const replaced = beginning.map((id) => ({ id, offset: cut!.offset }));
    return { text, tokens: [...tokens, ...replaced], finish, ...(stop !== undefined && { stop }) };
  }

  /** Tokens of the part of a token's text that lies before `end`; none where the tokenizer has none for it. */
  #beginning(token: GeneratedToken | undefined, end: number): readonly number[] {
    if (token === undefined || token.offset >= end) return [];
    const text = this.#text.slice(token.offset - this.#from, end - this.#from);
    try {
      return [...this.#tokenizer.encode(text, { continues: true })];
    } catch {
      return [];
    }
  }
}
