/** One turn of one session in a scheduler: what is to be read, then what is generated, and who waits for it. */
import type { Drawing, Drawn } from "../draw.ts";
import type { DocumentState } from "../document-state.ts";
import type { GenerateOptions } from "../generate-options.ts";
import { MemformerError } from "../../errors.ts";
import type { LentSession } from "../lent-session.ts";
import { checkTokens, tokensOf, type ReadInput } from "../read-input.ts";
import type { SessionModel } from "../session-model.ts";
import type { Session } from "../session.ts";
import type { Piece, Turn } from "../turn.ts";

/** What a turn reads and generates. */
export interface TurnRequest extends GenerateOptions {
  /** Read before anything is generated, all of it or nothing. Default: nothing. */
  readonly input?: ReadInput | undefined;
  /** Turns of one key share what one would get: a user, say. Default: each session by itself. */
  readonly key?: unknown;
}

interface Waiter {
  readonly resolve: (result: IteratorResult<Piece, void>) => void;
  readonly reject: (error: unknown) => void;
}

/** What a turn tells its scheduler. */
export interface TurnOwner {
  /** It can go on: tokens arrived, or pieces were taken. */
  wake(): void;
  /** It is over: the session is its owner's again. */
  over(turn: ScheduledTurn): void;
}

/** A turn under way. A loop over it takes its pieces; one that is left ends it. */
export class ScheduledTurn implements AsyncIterable<Piece> {
  /** @internal */
  readonly key: unknown;
  /** @internal */
  readonly arrival: number;
  /** @internal */
  readonly document: DocumentState;
  /** @internal */
  drawing: Drawing | undefined;
  /** @internal Tokens drawn for it that nobody has looked at yet. */
  underWay = 0;
  readonly #session: LentSession;
  readonly #request: TurnRequest;
  readonly #owner: TurnOwner;
  readonly #input: AsyncGenerator<ArrayLike<number>, void, void> | undefined;
  #begin: ReturnType<DocumentState["snapshot"]> | undefined; // of what is read, or of all that is discarded
  readonly #config: SessionModel["config"];
  readonly #pieces: Piece[] = [];
  readonly #waiters: Waiter[] = [];
  #part: ArrayLike<number> | undefined; // being read
  #at = 0; // in it
  #read = 0;
  #pulling = false;
  #turn: Turn | undefined;
  #start = 0;
  #made = 0;
  #complete = false; // the last piece is made
  #over = false;
  #waited: number | undefined;
  readonly #added = performance.now();
  #error: { readonly reason: unknown } | undefined;
  readonly #abort = (): void => {
    this.end(this.#request.signal!.reason);
  };

  /** @internal */
  constructor(session: Session, request: TurnRequest, arrival: number, owner: TurnOwner) {
    this.#session = session.lend(() => {
      this.end(new MemformerError("DISPOSED", "this session has been disposed of"));
    });
    this.#request = request;
    this.#owner = owner;
    this.#config = session.model.config;
    this.document = this.#session.document;
    this.key = request.key ?? session;
    this.arrival = arrival;
    const { input, signal } = request;
    if (input !== undefined) this.#input = tokensOf(session.tokenizer, input, this.document.position > 0);
    signal?.addEventListener("abort", this.#abort, { once: true });
  }

  /** Whether it has ended: all was handed out, it was left, aborted, or failed. */
  get over(): boolean {
    return this.#over;
  }

  /** Tokens that it has read so far. */
  get tokensRead(): number {
    return this.#read;
  }

  /** Tokens that it has drawn so far, but for a BOS that ended it; more than were handed out, where a text waits. */
  get tokensDrawn(): number {
    return this.#made;
  }

  /** Milliseconds until it was let in; undefined while it waits. */
  get waited(): number | undefined {
    return this.#waited;
  }

  /** @internal It was let in: until then it holds nothing of the engine's. */
  start(): void {
    this.#waited = performance.now() - this.#added;
    if (this.#request.onAbort === "discard" || this.#input !== undefined) this.#begin = this.document.snapshot();
    if (this.#input === undefined) this.generate();
  }

  /** @internal Whether it is not done with what it reads. */
  get reading(): boolean {
    return this.#input !== undefined && this.#turn === undefined;
  }

  /** @internal Whether tokens to read have arrived; asks for them otherwise. */
  get readable(): boolean {
    if (!this.reading || this.#over) return false;
    if (this.#part === undefined) void this.#pull();
    return this.#part !== undefined;
  }

  /** @internal Whether it can draw a token. `ahead`: pieces that may wait for the one who takes them. */
  decodable(ahead: number): boolean {
    return !this.reading && this.left > 0 && this.room(ahead) > 0;
  }

  /** @internal How many more it may draw before one of so many pieces is taken. */
  room(ahead: number): number {
    return ahead - this.#pieces.length - this.underWay;
  }

  /** @internal Whether it wants no more tokens: its last piece is made, or it is over. */
  get complete(): boolean {
    return this.#over || this.#complete;
  }

  /** @internal Tokens that it wants after those under way. */
  get left(): number {
    const { maxTokens = 256 } = this.#request;
    return this.complete ? 0 : maxTokens - this.#made - this.underWay;
  }

  /** @internal Reads `count` segments, or to the end of what has arrived. Returns how many tokens. */
  readSegments(count: number): number {
    const before = this.#read,
      { segmentLength } = this.#config;
    for (let left = count; left > 0 && this.#part !== undefined;) {
      const read = this.#session.readOn(this.#part, this.#at, left);
      this.#at += read;
      this.#read += read;
      left -= Math.ceil(read / segmentLength);
      if (this.#at >= this.#part.length) this.#part = undefined;
    }
    return this.#read - before;
  }

  /** @internal Begins to generate, if it has not. */
  generate(): void {
    if (this.#turn !== undefined) return;
    if (this.#request.onAbort !== "discard") this.#drop();
    if (this.#read > 0) this.#session.wasRead();
    this.#start = this.document.position;
    this.document.commit();
    this.#turn = this.#session.turn(this.#request.stop);
    const { maxTokens = 256 } = this.#request;
    if (maxTokens === 0) this.#last(this.#turn.finish("length"));
    else this.drawing = this.#session.drawing(this.#request);
  }

  /** @internal */
  get tokenizer(): unknown {
    return this.#session.tokenizer;
  }

  /** @internal Ends a segment that its slot has not computed. */
  advance(): void {
    this.#session.advance();
  }

  /** @internal Takes a token that was drawn; returns whether its segment is complete. */
  take(drawn: Drawn, bos: number): boolean {
    const turn = this.#turn!,
      { maxTokens = 256 } = this.#request;
    if (drawn.id === bos) {
      this.#last(turn.finish("end"));
      return false;
    }
    this.document.push(drawn.id);
    this.#made += 1;
    const piece = turn.take(drawn);
    if (piece !== undefined && piece.finish !== null) this.#last(piece);
    else {
      if (piece !== undefined) this.#pieces.push(piece);
      if (this.#made === maxTokens) this.#last(turn.finish("length"));
    }
    return this.document.complete;
  }

  /** @internal Whether somebody waits for what is made. */
  get deliverable(): boolean {
    return this.#waiters.length > 0 && this.#pieces.length > 0 && !this.#over;
  }

  /** @internal Hands out what is made to who waits for it, once segments that are complete have ended. */
  deliver(): void {
    while (this.deliverable) {
      const waiter = this.#waiters.shift()!;
      waiter.resolve({ value: this.#handOut(), done: false });
    }
  }

  /**
   * @internal Ends it: what was handed out stays in the session, or nothing, as `onAbort` says. Without a reason it
   * simply has no more pieces.
   */
  end(reason?: unknown): void {
    if (this.#over) return;
    if (reason !== undefined) this.#error = { reason };
    // Reading is all or nothing; what was read is kept once it generates, with what it hands out.
    if (this.#begin !== undefined) {
      this.document.returnTo(this.#begin);
      this.#begin = undefined;
    } else if (this.#turn !== undefined) this.#session.settle(this.#turn, this.#start);
    this.#drop();
    this.#close();
  }

  /** Its pieces, from the next on. */
  [Symbol.asyncIterator](): AsyncIterator<Piece, void> {
    return {
      next: async () => this.#next(),
      return: async () => {
        this.end();
        return { value: undefined, done: true };
      },
    };
  }

  async #next(): Promise<IteratorResult<Piece, void>> {
    if (this.#error !== undefined) {
      const { reason } = this.#error;
      throw reason;
    }
    if (this.#over) return { value: undefined, done: true };
    if (this.#pieces.length > 0) {
      const value = this.#handOut();
      this.#owner.wake();
      return { value, done: false };
    }
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  #handOut(): Piece {
    const piece = this.#pieces.shift()!,
      turn = this.#turn!;
    turn.handOut();
    if (piece.finish === null) this.document.commit(this.#start + turn.handedOut);
    else {
      this.#session.settle(turn, this.#start);
      this.#drop();
      this.#close();
    }
    return piece;
  }

  #drop(): void {
    if (this.#begin !== undefined) this.document.drop(this.#begin);
    this.#begin = undefined;
  }

  #last(piece: Piece): void {
    this.#pieces.push(piece);
    this.#complete = true;
  }

  #close(): void {
    this.#over = true;
    this.#request.signal?.removeEventListener("abort", this.#abort);
    this.drawing?.[Symbol.dispose]();
    this.#pieces.length = 0;
    void this.#input?.return().catch(() => undefined);
    this.#session.giveBack();
    for (const { resolve, reject } of this.#waiters.splice(0)) {
      if (this.#error === undefined) resolve({ value: undefined, done: true });
      else reject(this.#error.reason);
    }
    this.#owner.over(this);
  }

  /** Asks for the next tokens to read; generation begins when there are none. */
  async #pull(): Promise<void> {
    if (this.#pulling) return;
    this.#pulling = true;
    try {
      const { value, done } = await this.#input!.next();
      if (this.#over) return;
      if (done) this.generate();
      else {
        checkTokens(value, this.#config.vocabulary, this.#read);
        this.#part = value.length === 0 ? undefined : value;
        this.#at = 0;
      }
    } catch (error) {
      this.end(error);
    } finally {
      this.#pulling = false;
      this.#owner.wake();
    }
  }
}
