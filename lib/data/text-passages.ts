// Documents on their way to an encoder: long ones cut, short ones together.
import { setImmediate } from "node:timers/promises";
import { MemformerError } from "../errors.ts";
import type { TextDocument } from "./documents.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** A document, or a part of one. */
export interface Passage {
  readonly text: string;
  /** The document's number among all, from 0. */
  readonly index: number;
  /** The document's file and its number there, from 1. */
  readonly file: string;
  readonly number: number;
  /** Whether the document ends here. */
  readonly last: boolean;
}

/** Milliseconds after which the event loop gets a turn. */
const patience = 2;

/**
 * Passages in batches of about `size()` characters, asked anew for each batch. A document is cut only where the
 * tokenizer says that it may be. What came before a failure of `documents` is yielded before it is thrown.
 */
export async function* inBatches(
  documents: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  tokenizer: Tokenizer,
  size: () => number,
): AsyncGenerator<Passage[], void, void> {
  let batch: Passage[] = [];
  let room = size();
  let index = 0;
  let since = performance.now();
  let failure: { readonly error: unknown } | undefined;
  try {
    for await (const { text, file, number } of documents) {
      for (let from = 0; from < text.length;) {
        const to = text.length - from > room ? cutOf(tokenizer, text, from + room) : text.length;
        batch.push({ text: text.slice(from, to), index, file, number, last: to === text.length });
        room -= to - from;
        from = to;
        if (room > 0) continue;
        yield batch;
        [batch, room] = [[], size()];
      }
      index++;
      if (performance.now() - since < patience) continue;
      await setImmediate();
      since = performance.now();
    }
  } catch (error) {
    failure = { error };
  }
  if (batch.length > 0) yield batch;
  if (failure) throw failure.error;
}

function cutOf(tokenizer: Tokenizer, text: string, from: number): number {
  const at = tokenizer.cut?.(text, from) ?? text.length;
  if (Number.isInteger(at) && at >= from && at <= text.length) return at;
  throw new MemformerError(
    "CONFIG",
    `The cut of tokenizer "${tokenizer.name}" must be a whole number from ${from} to ${text.length}, got ${at}`,
    { details: { option: "tokenizer.cut", expected: `${from} to ${text.length}`, found: at } },
  );
}
