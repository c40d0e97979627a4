/** The text of one choice, part by part, with log-probabilities in OpenAI's form: four arrays side by side. */
import type { Tokenizer } from "../../data/tokenizers/tokenizer.ts";
import type { GeneratedToken } from "../../generate/turn.ts";
import type { Logprobs } from "./completion-schema.ts";
import { tokenName, tokenText } from "./token-text.ts";

/** A part of a choice. */
export interface ChoiceText {
  readonly text: string;
  readonly logprobs: Logprobs | null;
}

/** What comes before the first part: the prompt that is echoed, with its tokens where they were scored. */
export interface Echo {
  readonly text: string;
  readonly tokens: readonly GeneratedToken[];
}

export class ChoiceWriter {
  readonly #tokenizer: Tokenizer;
  readonly #scored: boolean;
  #echo: Echo | undefined;
  #shift = 0; // UTF-16 units before the generation's text
  #before: number | undefined; // the last token
  #rest = ""; // text from #units on
  #units = 0;
  #characters = 0; // before #units

  /** `scored`: whether log-probabilities were asked for. `before`: the token before, where it is known. */
  constructor(tokenizer: Tokenizer, scored: boolean, echo?: Echo, before?: number) {
    [this.#tokenizer, this.#scored, this.#echo, this.#before] = [tokenizer, scored, echo, before];
  }

  /** A part of the generation, whose tokens' offsets count from its start; the first has the echo before it. */
  take(text: string, tokens: readonly GeneratedToken[]): ChoiceText {
    const echo = this.#echo;
    this.#echo = undefined;
    if (echo === undefined) return { text, logprobs: this.#logprobs(text, tokens) };
    if (this.#scored && echo.tokens.length > 0) this.#before = undefined;
    const first = this.#logprobs(echo.text, echo.tokens);
    this.#shift = echo.text.length;
    const rest = this.#logprobs(text, tokens);
    return { text: echo.text + text, logprobs: first && rest && joined(first, rest) };
  }

  #logprobs(text: string, tokens: readonly GeneratedToken[]): Logprobs | null {
    if (!this.#scored) return null;
    this.#rest += text;
    const part: Logprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const { id, offset, logprob, top } of tokens) {
      const name = tokenText(this.#tokenizer, id, this.#before);
      part.tokens.push(name);
      part.token_logprobs.push(logprob ?? null);
      part.top_logprobs.push(logprob === undefined ? null : this.#named(id, name, logprob, top ?? []));
      part.text_offset.push(this.#charactersTo(this.#shift + offset));
      this.#before = id;
    }
    return part;
  }

  /** Log-probabilities by name: the token's own and the likeliest. No two ids share a name. */
  #named(id: number, name: string, logprob: number, top: NonNullable<GeneratedToken["top"]>): Record<string, number> {
    const named = new Map<string, number>();
    for (const other of top) {
      const text = other.id === id ? name : tokenText(this.#tokenizer, other.id, this.#before);
      named.set(other.id !== id && (text === name || named.has(text)) ? tokenName(other.id) : text, other.logprob);
    }
    if (!named.has(name)) named.set(name, logprob);
    return Object.fromEntries(named);
  }

  /** Code points before a place that does not lie before the one asked for last. */
  #charactersTo(place: number): number {
    const passed = this.#rest.slice(0, place - this.#units);
    for (const character of passed) if (character !== "") this.#characters += 1;
    this.#units += passed.length;
    this.#rest = this.#rest.slice(passed.length);
    return this.#characters;
  }
}

/** One part after another. */
export function joined(a: Logprobs, b: Logprobs): Logprobs {
  return {
    tokens: [...a.tokens, ...b.tokens],
    token_logprobs: [...a.token_logprobs, ...b.token_logprobs],
    top_logprobs: [...a.top_logprobs, ...b.top_logprobs],
    text_offset: [...a.text_offset, ...b.text_offset],
  };
}
