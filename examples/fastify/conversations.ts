/**
 * One session a conversation: at most so many in memory, the longest unused one goes to disk, and comes back when it is
 * spoken to. A session is a memory of constant size and at most two segments of tokens, so a file of it is small.
 */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Session, type GenerateOptions, type Memformer, type Tokenizer } from "../../lib/index.ts";

export interface ConversationLimits {
  /** Sessions held in memory. */
  readonly inMemory: number;
  /** Answers that are being written at once, over all conversations. */
  readonly answersAtOnce: number;
}

/** Why a request is refused, as a status of HTTP. */
export class Refusal extends Error {
  readonly statusCode: number;

  constructor(statusCode: number, message: string) {
    super(message);
    this.statusCode = statusCode;
  }
}

export class Conversations {
  readonly #model: Memformer;
  readonly #tokenizer: Tokenizer;
  readonly #folder: string;
  readonly #limits: ConversationLimits;
  readonly #sessions = new Map<string, Session>(); // in the order of their last use
  readonly #answering = new Set<string>();
  readonly #leaving = new Map<string, Promise<void>>(); // on their way to disk
  #closing = false;

  constructor(model: Memformer, tokenizer: Tokenizer, folder: string, limits: ConversationLimits) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#folder = folder;
    this.#limits = limits;
  }

  async open(): Promise<string> {
    const id = randomUUID();
    await this.#keep(id, await Session.open(this.#model, this.#tokenizer));
    return id;
  }

  /**
   * Reads `text`, yields "", then writes on piece by piece. Ends early when the caller leaves the loop or after
   * `stopAnswering`.
   */
  async *answer(id: string, text: string, options: GenerateOptions): AsyncGenerator<string, void, void> {
    if (this.#answering.has(id)) throw new Refusal(409, "this conversation is being answered");
    if (this.#answering.size >= this.#limits.answersAtOnce)
      throw new Refusal(503, "too many answers are being written; try again");
    this.#answering.add(id);
    try {
      const session = await this.#take(id);
      await this.#keep(id, session);
      await session.read(text);
      yield "";
      for await (const piece of session.generate(options)) {
        if (this.#closing) return;
        yield piece;
      }
    } finally {
      this.#answering.delete(id);
    }
  }

  /** Forgets a conversation. */
  async end(id: string): Promise<void> {
    if (this.#answering.has(id)) throw new Refusal(409, "this conversation is being answered");
    this.#sessions.get(id)?.dispose();
    this.#sessions.delete(id);
    await rm(this.#file(id), { force: true });
  }

  /** Answers end at their next piece. */
  stopAnswering(): void {
    this.#closing = true;
  }

  /** Whether answers that end now are cut short. */
  get closing(): boolean {
    return this.#closing;
  }

  /** Writes every session to disk and frees it. */
  async close(): Promise<void> {
    for (const id of [...this.#sessions.keys()]) await this.#putAway(id);
    await Promise.all(this.#leaving.values());
  }

  async #take(id: string): Promise<Session> {
    const held = this.#sessions.get(id);
    if (held !== undefined) return held;
    await this.#leaving.get(id);
    const bytes = await readFile(this.#file(id)).catch(() => undefined);
    if (bytes === undefined) throw new Refusal(404, "there is no such conversation");
    return Session.restore(this.#model, bytes, this.#tokenizer);
  }

  async #keep(id: string, session: Session): Promise<void> {
    this.#sessions.delete(id);
    this.#sessions.set(id, session);
    const idle = [...this.#sessions.keys()].filter((other) => other !== id && !this.#answering.has(other));
    for (const other of idle.slice(0, this.#sessions.size - this.#limits.inMemory)) await this.#putAway(other);
  }

  async #putAway(id: string): Promise<void> {
    const session = this.#sessions.get(id)!;
    this.#sessions.delete(id);
    const leaving = this.#write(this.#file(id), session).finally(() => this.#leaving.delete(id));
    this.#leaving.set(id, leaving);
    await leaving;
  }

  async #write(file: string, session: Session): Promise<void> {
    using leaving = session;
    await mkdir(this.#folder, { recursive: true });
    await writeFile(`${file}.partial`, await leaving.save());
    await rename(`${file}.partial`, file);
  }

  #file(id: string): string {
    return join(this.#folder, `${id}.session`);
  }
}
