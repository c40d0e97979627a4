// Worker threads that tokenize. One that cannot start is done without; one that dies fails the text it was at.
import { extname } from "node:path";
import { setImmediate } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { EncodedBatch } from "./encode-batch.ts";
import type { EncodeAnswer, EncodeTask } from "./encode-worker.ts";
import { arrays, dtypeOf } from "./token-source.ts";
import type { Tokenizer } from "./tokenizers/tokenizer.ts";

/**
 * Batches a worker is given at once: one to work on, and others so that it need not wait while the calling thread is
 * busy.
 */
const ahead = 3;

interface Job {
  readonly texts: readonly string[];
  /** Takes undefined where no worker is left to do it. */
  readonly done: (batch: EncodedBatch | undefined) => void;
}

interface Member {
  readonly worker: Worker;
  readonly place: Int32Array;
  readonly jobs: Job[]; // in the order they were sent
  ready: boolean;
}

/** A number of threads, each with the tokenizer opened anew. */
export class EncodePool {
  readonly #tokenizer: Tokenizer;
  readonly #members = new Set<Member>();
  readonly #waiting: Job[] = [];
  #toStart: number;
  #refusal: string | undefined;
  #closed = false;
  /** Resolves when a worker takes work, or none is going to. */
  readonly started: Promise<void>;
  #settle!: () => void;

  constructor(tokenizer: Tokenizer, threads: number) {
    this.#tokenizer = tokenizer;
    this.#toStart = threads;
    this.started = new Promise((resolve) => (this.#settle = resolve));
    void this.#start();
  }

  /** Whether a worker takes work. */
  get ready(): boolean {
    return [...this.#members].some(({ ready }) => ready);
  }

  /** Whether there is no worker, and none to come. */
  get gone(): boolean {
    return this.#toStart === 0 && this.#members.size === 0;
  }

  /** Batches that have been given and not come back. */
  get underWay(): number {
    return [...this.#members].reduce((sum, { jobs }) => sum + jobs.length, this.#waiting.length);
  }

  /** Why workers could not start, if any did not. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  /** Encodes the texts as `encodeBatch` does. Never rejects; undefined where no worker is left to do it. */
  async run(texts: readonly string[]): Promise<EncodedBatch | undefined> {
    return new Promise((done) => {
      this.#waiting.push({ texts, done });
      this.#assign();
    });
  }

  /** Ends all threads at once, whatever they are doing. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#toStart = 0;
    const members = [...this.#members];
    this.#members.clear();
    await Promise.all(members.map(({ worker }) => worker.terminate()));
    for (const { jobs } of members) this.#waiting.push(...jobs);
    this.#assign();
  }

  /** Ends one worker, as running out of memory would. @internal */
  async kill(): Promise<void> {
    const [member] = this.#members;
    await member?.worker.terminate();
  }

  /** One after another, so that starting many does not hold the event loop. */
  async #start(): Promise<void> {
    while (this.#toStart > 0) {
      this.#toStart--;
      this.#add();
      await setImmediate();
    }
    this.#assign();
  }

  #add(): void {
    const { spec, name, vocabulary, bos } = this.#tokenizer;
    const place = new Int32Array(new SharedArrayBuffer(4));
    let worker: Worker;
    try {
      worker = startWorker({ spec, expected: { name, vocabulary, bos }, place });
    } catch (error) {
      this.#refuse((error as Error).message);
      return;
    }
    const member: Member = { worker, place, jobs: [], ready: false };
    this.#members.add(member);
    let why = "it ended";
    worker.on("message", (answer: EncodeAnswer) => this.#receive(member, answer));
    worker.on("messageerror", (error) => (why = error.message));
    worker.on("error", (error: Error) => (why = error.message));
    worker.on("exit", () => this.#lose(member, why));
  }

  #receive(member: Member, answer: EncodeAnswer): void {
    if ("ready" in answer) {
      member.ready = true;
      this.#settle();
    } else if ("refused" in answer) {
      this.#refuse(answer.refused);
      void member.worker.terminate();
    } else {
      member.jobs.shift()!.done(answer);
    }
    this.#assign();
  }

  /** A worker has ended: the text it was at failed, what else it had is done by others. */
  #lose(member: Member, why: string): void {
    if (!this.#members.delete(member)) return; // closed
    const [at, ...others] = member.jobs;
    if (!member.ready) this.#refuse(why);
    this.#waiting.unshift(...others);
    at?.done({
      tokens: new arrays[dtypeOf(this.#tokenizer)](0),
      counts: new Uint32Array(0),
      bytes: new Uint32Array(0),
      failure: { thrown: new Error(`its worker thread ended: ${why}`), at: Atomics.load(member.place, 0) },
    });
    this.#assign();
  }

  #refuse(why: string): void {
    this.#refusal ??= why;
  }

  #assign(): void {
    if (this.gone) {
      this.#settle();
      for (const { done } of this.#waiting.splice(0)) done(undefined);
      return;
    }
    for (let turn = 0; turn < ahead; turn++) {
      // everyone gets a first batch before anyone a second
      for (const member of this.#members) {
        if (this.#waiting.length === 0 || this.#closed) return;
        if (!member.ready || member.jobs.length > turn) continue;
        const job = this.#waiting.shift()!;
        member.jobs.push(job);
        member.worker.postMessage(job.texts);
      }
    }
  }
}

/** The file beside this one. From source, as tests run, Node must be taught TypeScript in each thread anew. */
function startWorker(workerData: EncodeTask): Worker {
  const extension = extname(import.meta.url);
  const entry = new URL(`./encode-worker${extension}`, import.meta.url);
  // A program given by --eval may have flags that no file can be started with.
  const options = {
    workerData,
    ...(process.execArgv.some((flag) => flag.startsWith("--input-type")) && { execArgv: [] }),
  };
  if (extension === ".js") return new Worker(entry, options);
  const source = `import("tsx/esm/api").then(({ register }) => (register(), import(${JSON.stringify(entry.href)})))`;
  return new Worker(source, { ...options, eval: true });
}
