// A worker thread that tokenizes: opens the tokenizer by its spec, then answers batches of texts in order.
import { isNativeError } from "node:util/types";
import { parentPort, workerData } from "node:worker_threads";
import { encodeBatch, type EncodedBatch } from "./encode-batch.ts";
import type { TokenizerFacts } from "./token-source.ts";
import { openTokenizer } from "./tokenizers/open.ts";

/** The data that a worker is started with. */
export interface EncodeTask {
  readonly spec: string;
  /** What the opened tokenizer must be: its file may have changed. */
  readonly expected: TokenizerFacts;
  /** Shared: the number of the text being encoded, to name the document if the thread dies of it. */
  readonly place: Int32Array;
}

/** Its answers: that it is ready, that it cannot start, or a batch. */
export type EncodeAnswer = { readonly ready: true } | { readonly refused: string } | EncodedBatch;

const port = parentPort!;
const { spec, expected, place } = workerData as EncodeTask;
try {
  const tokenizer = await openTokenizer(spec);
  const { name, vocabulary, bos } = tokenizer;
  if (name !== expected.name || vocabulary !== expected.vocabulary || bos !== expected.bos) {
    throw new Error(`${spec} is now the tokenizer "${name}", not "${expected.name}"`);
  }
  port.on("message", (texts: readonly string[]) => {
    const batch = encodeBatch(texts, tokenizer, (number) => {
      Atomics.store(place, 0, number);
    });
    const { tokens, counts, bytes, failure } = batch;
    const sent = failure && "thrown" in failure ? { thrown: plain(failure.thrown) } : failure;
    const answer: EncodeAnswer = { ...batch, ...(sent && { failure: sent }) };
    port.postMessage(answer, [tokens.buffer, counts.buffer, bytes.buffer] as ArrayBuffer[]);
  });
  port.postMessage({ ready: true } satisfies EncodeAnswer);
} catch (error) {
  port.postMessage({ refused: (error as Error).message } satisfies EncodeAnswer);
}

/** An error as an object that crosses threads with its code and details. */
function plain(thrown: unknown): unknown {
  if (!isNativeError(thrown)) return String(thrown);
  const { name, message, stack, code, details } = thrown as Error & { code?: unknown; details?: unknown };
  return { name, message, stack, code, details };
}
