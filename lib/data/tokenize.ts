// Documents to tokens, in order, by as many threads as pay: the same tokens whatever their number.
import { availableParallelism } from "node:os";
import { setImmediate } from "node:timers/promises";
import { MemformerError } from "../errors.ts";
import { wholeNumber } from "./arguments.ts";
import type { TextDocument } from "./documents.ts";
import { encodeBatch, type EncodedBatch } from "./encode-batch.ts";
import { EncodePool } from "./encode-pool.ts";
import { inBatches, type Passage } from "./text-passages.ts";
import { foreignToken, type TokenPart } from "./token-source.ts";
import type { ProgressMeter, TokenizeProgress } from "./tokenize-progress.ts";
import { opensAgain } from "./tokenizers/open.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/** How text is tokenized. */
export interface TokenizeOptions {
  readonly tokenizer: Tokenizer;
  /**
   * Threads that tokenize, at most; 0, the default, stands for one per available core. One is a worker; of more, the
   * calling thread is the last, for text that its tokenizer can `cut`: it feeds the others first and gives the event
   * loop a turn every few milliseconds. Little text, and text of a tokenizer that `openTokenizer` has not opened, is
   * tokenized by the calling thread alone, with a turn after each document that cannot be cut.
   */
  readonly tokenizeThreads?: number;
  /** Called after each document, and during a long one. */
  readonly onProgress?: (done: TokenizeProgress) => void;
  readonly signal?: AbortSignal;
}

/**
 * Characters in a worker's batch: some 6 ms of its time, so that one is always at hand while the calling thread is
 * busy.
 */
const workerBatch = 1 << 18;
/** Batches per worker between the reader and the writer. */
const inFlight = 3;
/** Batches of the calling thread's, far smaller ones, that may wait for those before them. */
const ownInFlight = 16;
/** Bytes of text from which a worker pays, and again for each further one: below, its start takes as long. */
const worthAWorker = 1 << 20;
/** The same where a document cannot be cut, so that the calling thread would hold the event loop. */
const worthAWorkerUncut = 1 << 14;
/** Milliseconds of encoding after which the calling thread gives the event loop a turn. */
const slice = 2;

/**
 * Tokenizes documents. At most three batches of 2^18 characters per worker, or as many documents that cannot be cut,
 * and sixteen smaller ones of the calling thread's are in memory at a time.
 * @param size bytes of text, about.
 * @throws MemformerError what `documents` throws; `ABORTED` by the signal; what the tokenizer throws, else `DATA`,
 * naming the document; `TOKEN_RANGE` for an id that belongs in no document.
 */
export async function* tokenize(
  documents: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  size: number,
  options: TokenizeOptions,
  meter?: ProgressMeter,
): AsyncGenerator<TokenPart[], void, void> {
  const { tokenizer, signal } = options;
  const encoder = new Encoder(tokenizer, threadsFor(size, options));
  const aborted = abortion(signal);
  const batches = inBatches(meter ? meter.given(documents) : documents, tokenizer, () => encoder.batchSize);
  const queue: Promise<{ passages: Passage[]; batch: EncodedBatch }>[] = [];
  let rest: IteratorReturnResult<void> | { readonly error: unknown } | undefined; // set when there is no more to read
  let begun = 0; // tokens of the document that the last batch ended in
  try {
    for (;;) {
      while (!rest && queue.length < encoder.limit) {
        const next = await Promise.race([aborted.promise, settled(batches.next())]);
        if ("error" in next || next.done) {
          rest = next;
          break;
        }
        const work = encoder.encode(next.value, signal);
        mayReject(work);
        queue.push(work);
        if (encoder.isBusy) await work; // one at a time: the event loop has its turn in between
      }
      const first = queue.shift();
      if (!first) break;
      const { passages, batch } = await Promise.race([aborted.promise, first]);
      const parts = partsOf(passages, batch);
      if (parts.length > 0) {
        meter?.advance(passages.slice(0, parts.length), parts);
        yield parts;
      }
      for (const { tokens, last } of parts) begun = last ? 0 : begun + tokens.length;
      if (batch.failure) throw failureOf(batch, passages, begun, tokenizer);
    }
    if (rest && "error" in rest) throw rest.error;
  } finally {
    aborted.release();
    await encoder.close();
    const closed = batches.return();
    mayReject(closed);
    if (!signal?.aborted) await closed; // else a read that hangs must not hold up the end
  }
}

function partsOf(passages: readonly Passage[], { tokens, counts, bytes }: EncodedBatch): TokenPart[] {
  let at = 0;
  return Array.from(counts, (count, i) => ({
    tokens: tokens.subarray(at, (at += count)),
    bytes: bytes[i]!,
    last: passages[i]!.last,
  }));
}

function failureOf(batch: EncodedBatch, passages: readonly Passage[], begun: number, tokenizer: Tokenizer): unknown {
  const failure = batch.failure!;
  if ("token" in failure) {
    const { index } = passages[batch.counts.length]!;
    return foreignToken(failure.token, begun + failure.position, index, tokenizer);
  }
  const { file, number } = passages[failure.at ?? batch.counts.length]!;
  const thrown = failure.thrown as { message?: unknown; code?: unknown; details?: object } | undefined;
  const [, code] = /^ERR_MEMFORMER_(\w+)$/.exec(String(thrown?.code)) ?? [];
  return new MemformerError(
    (code ?? "DATA") as "DATA",
    `Document ${number} of ${file} cannot be tokenized: ${String(thrown?.message ?? failure.thrown)}`,
    { details: { ...thrown?.details, path: file, document: number }, cause: failure.thrown },
  );
}

/** Workers worth starting for so much text; 0: the calling thread alone. */
function threadsFor(size: number, { tokenizer, tokenizeThreads = 0 }: TokenizeOptions): number {
  const threads = wholeNumber(tokenizeThreads, "tokenizeThreads", 0) || availableParallelism();
  if (!opensAgain(tokenizer) || tokenizer.name === "bytes") return 0;
  const worth = tokenizer.cut ? Math.floor(size / worthAWorker) : size >= worthAWorkerUncut ? Infinity : 0;
  return Math.min(threads, worth);
}

/**
 * Encodes batches by workers once there are some; by the calling thread before, where there are none, and as one of
 * several.
 */
class Encoder {
  readonly #tokenizer: Tokenizer;
  readonly #pool: EncodePool | undefined;
  readonly #workers: number;
  readonly #helps: boolean; // whether the calling thread encodes what workers have no hands for
  #slice = 1 << 12; // characters that the calling thread encodes in one go
  #isOwn = true; // whether the calling thread encodes the next batch
  #busy = false;

  constructor(tokenizer: Tokenizer, threads: number) {
    this.#tokenizer = tokenizer;
    this.#helps = threads > 1 && tokenizer.cut !== undefined;
    this.#workers = this.#helps ? threads - 1 : threads;
    this.#pool = threads > 0 ? new EncodePool(tokenizer, this.#workers) : undefined;
  }

  /** Whether workers take batches. The calling thread does until one is ready, if it can do so in slices. */
  get #byWorkers(): boolean {
    return this.#pool !== undefined && !this.#pool.gone && (this.#pool.ready || !this.#tokenizer.cut);
  }

  /** Characters of the next batch, which is then for workers or for the calling thread. */
  get batchSize(): number {
    this.#isOwn = !this.#byWorkers || (this.#helps && this.#pool!.underWay >= inFlight * this.#workers);
    return this.#isOwn ? this.#slice : workerBatch;
  }

  /** Batches that may be under way. */
  get limit(): number {
    return this.#byWorkers ? inFlight * this.#workers + (this.#helps ? ownInFlight : 0) : 1;
  }

  /** Whether the calling thread has a batch to encode. */
  get isBusy(): boolean {
    return this.#busy;
  }

  async encode(passages: Passage[], signal?: AbortSignal): Promise<{ passages: Passage[]; batch: EncodedBatch }> {
    const texts = passages.map(({ text }) => text);
    this.#busy = this.#isOwn;
    const byWorker = this.#isOwn ? undefined : await this.#pool!.run(texts);
    if (byWorker) return { passages, batch: byWorker };
    await setImmediate();
    this.#busy = false;
    return { passages, batch: this.#here(signal?.aborted ? [] : texts) };
  }

  #here(texts: readonly string[]): EncodedBatch {
    const began = performance.now();
    const batch = encodeBatch(texts, this.#tokenizer);
    const change = Math.min(Math.max(slice / (performance.now() - began), 0.25), 2);
    this.#slice = Math.min(Math.max(Math.round(this.#slice * change), 256), workerBatch);
    return batch;
  }

  async close(): Promise<void> {
    if (this.#pool?.gone && this.#pool.refusal !== undefined) {
      process.emitWarning(`Text was tokenized by one thread: workers could not be started (${this.#pool.refusal}).`, {
        type: "MemformerWarning",
      });
    }
    await this.#pool?.close();
  }
}

/** Lets a promise reject before somebody asks for it, or unasked. */
function mayReject(promise: Promise<unknown>): void {
  promise.catch(() => {});
}

async function settled<T>(promise: Promise<T>): Promise<T | { readonly error: unknown }> {
  return promise.catch((error: unknown) => ({ error }));
}

/** A promise that rejects with `ABORTED` when the signal comes, and does nothing else. */
function abortion(signal: AbortSignal | undefined): { readonly promise: Promise<never>; release(): void } {
  let abort = (): void => {};
  const promise = new Promise<never>((_, reject) => {
    abort = () => {
      reject(new MemformerError("ABORTED", "Tokenizing was aborted.", { cause: signal!.reason }));
    };
  });
  if (signal?.aborted) abort();
  else signal?.addEventListener("abort", abort, { once: true });
  mayReject(promise);
  return { promise, release: () => signal?.removeEventListener("abort", abort) };
}
