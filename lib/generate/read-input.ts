/**
 * What a session reads, as tokens: some thousands at a time, whatever the length, with the tokens of the whole text.
 */
import { setImmediate } from "node:timers/promises";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { MemformerError } from "../errors.ts";

/** Text, or tokens. A Buffer is UTF-8 text, as streams give it; other arrays of numbers are tokens. */
export type TextOrTokens = string | ArrayLike<number>;

/** What `Session.read` takes: all at once, or parts as they arrive. */
export type ReadInput = TextOrTokens | AsyncIterable<TextOrTokens> | Iterable<string>;

const longestTurn = 10; // milliseconds of encoding before other work of this thread has a turn
const encodedAtOnce = 1 << 12; // UTF-16 units of a text that arrives in parts
const longestUncut = 1 << 20; // a text without a safe place to cut is cut anywhere from here on

/**
 * The tokens of `input`, in parts. Where the tokenizer tells where a text may be cut, the borders of the parts that
 * arrive do not show; else no token spans two of them. `continues`: whether the text goes on from earlier text.
 * Throws MemformerError CONFIG for what is neither text nor tokens.
 */
export async function* tokensOf(
  tokenizer: Tokenizer,
  input: ReadInput,
  continues: boolean,
): AsyncGenerator<ArrayLike<number>, void, void> {
  const text = new TextParts(tokenizer, continues);
  if (isPart(input)) {
    yield* text.take(input);
    yield* text.end();
    return;
  }
  if (!isIterable(input)) throw unreadable(input, "read() takes text, tokens, or an iterable of them");
  for await (const part of input as AsyncIterable<TextOrTokens>) {
    if (!isPart(part)) throw unreadable(part, "read() takes an iterable of text or of arrays of tokens");
    yield* text.take(part);
  }
  yield* text.end();
}

/** The same parts; rejects with the signal's reason as soon as it aborts, also while a part is waited for. */
export async function* abortable<Part>(
  parts: AsyncGenerator<Part, void, void>,
  signal: AbortSignal,
): AsyncGenerator<Part, void, void> {
  signal.throwIfAborted();
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => {
      reject(signal.reason as Error);
    };
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    for (;;) {
      const next = await Promise.race([parts.next(), aborted]);
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    void parts.return().catch(() => undefined); // it may be waiting still
  }
}

/** Text that arrives in parts, on its way to tokens. */
class TextParts {
  readonly #tokenizer: Tokenizer;
  #continues: boolean;
  #held = "";
  readonly #bytes = new TextDecoder("utf-8", { ignoreBOM: true });
  #began = performance.now();

  constructor(tokenizer: Tokenizer, continues: boolean) {
    this.#tokenizer = tokenizer;
    this.#continues = continues;
  }

  async *take(part: TextOrTokens): AsyncGenerator<ArrayLike<number>, void, void> {
    if (typeof part !== "string" && !Buffer.isBuffer(part)) {
      yield* this.end();
      this.#continues ||= part.length > 0;
      yield part;
      return;
    }
    this.#held += typeof part === "string" ? this.#bytes.decode() + part : this.#bytes.decode(part, { stream: true });
    const { cut } = this.#tokenizer;
    if (cut === undefined) {
      yield* this.#encode(wholeCharacters(this.#held));
      return;
    }
    while (this.#held.length > encodedAtOnce) {
      const safe = cut(this.#held, encodedAtOnce >> 1);
      if (safe < this.#held.length) yield* this.#encode(safe);
      else if (this.#held.length > longestUncut) yield* this.#encode(wholeCharacters(this.#held));
      else break;
    }
  }

  /** The rest; a part that follows begins anew. */
  async *end(): AsyncGenerator<ArrayLike<number>, void, void> {
    this.#held += this.#bytes.decode();
    yield* this.#encode(this.#held.length);
  }

  async *#encode(length: number): AsyncGenerator<ArrayLike<number>, void, void> {
    if (length === 0) return;
    const text = this.#held.slice(0, length),
      options = { continues: this.#continues };
    this.#held = this.#held.slice(length);
    this.#continues = true;
    const parts = this.#tokenizer.encodeParts?.(text, options) ?? [this.#tokenizer.encode(text, options)];
    for (const part of parts) {
      yield part;
      if (performance.now() - this.#began < longestTurn) continue;
      await setImmediate();
      this.#began = performance.now();
    }
  }
}

/** The text's length without half a surrogate pair at its end. */
function wholeCharacters(text: string): number {
  return /[\ud800-\udbff]$/.test(text) ? text.length - 1 : text.length;
}

function isPart(value: unknown): value is TextOrTokens {
  if (typeof value === "string") return true;
  if (Array.isArray(value) && typeof value[0] !== "number" && value.length > 0) return false; // of texts, or of nothing
  return typeof value === "object" && value !== null && Number.isSafeInteger((value as { length?: unknown }).length);
}

function isIterable(value: unknown): boolean {
  return typeof value === "object" && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

function unreadable(value: unknown, sentence: string): MemformerError {
  const found = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
  return new MemformerError("CONFIG", `${sentence}, got ${value === undefined ? "nothing" : found}`, {
    details: { found },
  });
}

/** Throws MemformerError TOKEN_RANGE; `before`: tokens of the same input before these. */
export function checkTokens(tokens: ArrayLike<number>, vocabulary: number, before: number): void {
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (Number.isInteger(token) && token >= 0 && token < vocabulary) continue;
    const position = before + i;
    throw new MemformerError(
      "TOKEN_RANGE",
      `token ${token} at position ${position} is outside the vocabulary of ${vocabulary}`,
      { details: { token, position, vocabulary } },
    );
  }
}
