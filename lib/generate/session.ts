/** A stream of text of any length through a memory of constant size: read, generate, save, go on tomorrow. */
import { openTokenizer } from "../data/tokenizers/open.ts";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { MemformerError } from "../errors.ts";
import { synchronize } from "../engine/runtime.ts";
import { Tensor } from "../engine/tensor.ts";
import { DocumentState } from "./document-state.ts";
import { DrawQueue } from "./draw-queue.ts";
import { Drawing, type DrawFacts, type DrawOptions, type SamplerSettings } from "./draw.ts";
import { checkGenerate, checkRead, stopsOf, type GenerateOptions, type ReadOptions } from "./generate-options.ts";
import { decodes, OpenSegment, segmentsAtOnce } from "./open-segment.ts";
import { openSegments, type OpenedSegments, wholeSegments } from "./opened-segments.ts";
import type { LentSession } from "./lent-session.ts";
import type { MemoryWatcher } from "./memory-watcher.ts";
import { abortable, checkTokens, tokensOf, type ReadInput } from "./read-input.ts";
import { bindingOf, expectTokenizer, expectWeights } from "./session-binding.ts";
import { packSession, unpackSession } from "./session-format.ts";
import type { SessionModel } from "./session-model.ts";
import { tokenGaps } from "./token-gaps.ts";
import { Turn, type Piece } from "./turn.ts";

/**
 * One document with one model. One call at a time: wait for a call, and end a generation, before the next, which is
 * refused with MemformerError BUSY otherwise.
 */
export class Session<Model extends SessionModel = SessionModel> {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  #document: DocumentState;
  #unfinished: readonly number[] = []; // generated last, of a character that has not been handed out
  #sampler: SamplerSettings | undefined; // of the latest generation
  #running: string | undefined; // the call under way
  #gone: AbortController | undefined; // of a reading that waits for its input
  #borrower: (() => void) | undefined; // has it in its hands: it is told when the session is disposed of
  #open: OpenSegment | undefined; // made by the first logits
  #gaps: Tensor | null | undefined; // ids never drawn; made by the first draw, null where there are none

  private constructor(model: Model, tokenizer: Tokenizer, document: DocumentState) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.#document = document;
  }

  /** A session at the start of a document. `tokenizer`: as in training, default "bytes". */
  static async open<Model extends SessionModel>(
    model: Model,
    tokenizer: Tokenizer | "bytes" | "gpt2" | (string & {}) = "bytes",
  ): Promise<Session<Model>> {
    const opened = typeof tokenizer === "string" ? await openTokenizer(tokenizer) : tokenizer;
    if (opened.vocabulary > model.config.vocabulary) {
      throw new MemformerError(
        "CONFIG",
        `tokenizer "${opened.name}" has ${opened.vocabulary} tokens, the model ${model.config.vocabulary}`,
      );
    }
    return new Session(model, opened, new DocumentState(model));
  }

  /**
   * Takes text or tokens in, at once or as they arrive, of any length in constant space. Only whole segments reach the
   * memory; the rest is the beginning of the next one. Text continues what the session holds: nothing is put before it,
   * but no token spans two calls. It is encoded in turns with the thread's other work; the parts of an iterable are one
   * text, where the tokenizer tells where a text may be cut (`Tokenizer.cut`). A Buffer is UTF-8 text.
   *
   * All is read, or nothing: when it fails or is aborted the session is what it was, unless `onAbort` says "commit".
   * Throws MemformerError TOKEN_RANGE for a token outside the vocabulary, CONFIG for what is no text, the signal's
   * reason, and what an iterable throws.
   */
  async read(input: ReadInput, options: ReadOptions = {}): Promise<void> {
    checkRead(options);
    return this.#alone("read", async () => this.#read(input, options));
  }

  async #read(input: ReadInput, { signal, onAbort = "discard" }: ReadOptions): Promise<void> {
    const document = this.#document,
      { vocabulary, segmentLength } = this.model.config,
      gone = (this.#gone ??= new AbortController()).signal;
    const stop = signal === undefined ? gone : AbortSignal.any([signal, gone]);
    stop.throwIfAborted();
    const before = onAbort === "discard" ? document.snapshot() : undefined,
      start = document.position;
    // What is enqueued at once. Two are under way, so that the engine has the next when it is done with one, and a text
    // of any length takes bounded memory.
    const batch = 128 * segmentLength;
    try {
      let due = start + batch,
        underWay: Promise<void> | undefined;
      for await (const tokens of abortable(tokensOf(this.tokenizer, input, start > 0), stop)) {
        checkTokens(tokens, vocabulary, document.position - start);
        for (let i = 0; i < tokens.length;) {
          i += this.#readOn(tokens, i);
          if (document.position < due) continue;
          due = document.position + batch;
          const earlier = underWay;
          underWay = this.#settled();
          underWay.catch(() => undefined); // it is looked at later
          await earlier;
          stop.throwIfAborted();
        }
      }
      await Promise.all([underWay, this.#settled()]); // so that an error surfaces here
      if (before !== undefined) document.drop(before);
    } catch (error) {
      this.#open?.forget();
      if (before !== undefined) {
        if (document.disposed) document.drop(before);
        else document.returnTo(before);
      }
      throw error;
    } finally {
      if (document.position > start) this.#unfinished = [];
    }
  }

  /**
   * Continues the text, piece by piece: {@link generatePieces} for the text alone. A piece never splits a character,
   * nor holds any part of a stop string.
   */
  async *generate(options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    for await (const { text } of this.generatePieces(options)) if (text !== "") yield text;
  }

  /**
   * Continues the text, piece by piece, with tokens and log-probabilities. What has been handed out is remembered as if
   * read, and nothing else. Ends at a stop string, after `maxTokens`, or with the document: when BOS is drawn. A
   * character that is not complete after `maxTokens` is not handed out; the next generation goes on with it.
   *
   * A token is drawn by (seed, position): the same seed draws the same in the same place, whatever was drawn before,
   * also after a restore or a branch. Without a seed each call draws anew; {@link sampler} tells by what. Ids that the
   * tokenizer has no text for are never drawn.
   *
   * A generation that is left, aborted or fails has committed what it handed out, or with `onAbort: "discard"` nothing.
   * Rejects with MemformerError CONFIG for unknown options and for those out of range, NOT_FINITE when the model's
   * logits are not finite, and the signal's reason.
   */
  async *generatePieces(options: GenerateOptions = {}): AsyncGenerator<Piece, void, void> {
    checkGenerate(options);
    this.#begin("generate");
    const { maxTokens = 256, signal, stop, onAbort = "commit" } = options;
    let drawing: Drawing | undefined, turn: Turn | undefined;
    let before: ReturnType<DocumentState["snapshot"]> | undefined;
    const document = this.#document,
      start = document.position,
      { bos } = this.model.config;
    try {
      signal?.throwIfAborted();
      drawing = this.#drawing(options);
      const draws = this.#draws(drawing);
      if (onAbort === "discard") before = document.snapshot();
      document.commit();
      turn = new Turn(this.tokenizer, document.context, this.#unfinished, stopsOf(stop));
      let last: Piece | undefined;
      for (let made = 0; made < maxTokens; made++) {
        signal?.throwIfAborted();
        const drawn = await draws.next(maxTokens - made);
        signal?.throwIfAborted();
        if (drawn.id === bos) {
          last = turn.finish("end");
          break;
        }
        this.#push(drawn.id, true);
        const piece = turn.take(drawn);
        if (piece === undefined) continue;
        if (piece.finish !== null) {
          last = piece;
          break;
        }
        turn.handOut();
        document.commit(start + turn.handedOut);
        yield piece;
      }
      last ??= turn.finish("length");
      turn.handOut();
      this.#settle(turn, start);
      turn = undefined;
      yield last;
    } catch (error) {
      this.#open?.forget(); // the call that failed has left the open segment behind
      throw error;
    } finally {
      if (turn !== undefined && !document.disposed) {
        if (before === undefined) this.#settle(turn, start);
        else {
          document.returnTo(before);
          this.#open?.forget();
          before = undefined;
        }
      }
      if (before !== undefined) document.drop(before);
      drawing?.[Symbol.dispose]();
      this.#running = undefined;
    }
  }

  /**
   * @internal Lends what the session holds to a scheduler, which runs a turn of it among others. The session is busy
   * until it is given back; `disposed` is called when its owner disposes of it meanwhile. Throws MemformerError BUSY,
   * DISPOSED.
   */
  lend(disposed: () => void): LentSession {
    this.#begin("generate");
    this.#borrower = disposed;
    this.#open?.[Symbol.dispose](); // it would not notice what happens meanwhile
    this.#open = undefined;
    return {
      document: this.#document,
      tokenizer: this.tokenizer,
      drawing: (options) => this.#drawing(options),
      turn: (stop) => new Turn(this.tokenizer, this.#document.context, this.#unfinished, stopsOf(stop)),
      readOn: (tokens, at, mostSegments) => this.#readOn(tokens, at, mostSegments),
      advance: () => {
        this.#advance();
      },
      settle: (turn, start) => {
        this.#settle(turn, start);
      },
      wasRead: () => {
        this.#unfinished = [];
      },
      giveBack: () => {
        this.#running = undefined;
        this.#borrower = undefined;
      },
    };
  }

  /** Leaves in the document what a turn that began at `start` has handed out. */
  #settle(turn: Turn, start: number): void {
    const { handedOut, beginning, unfinished } = turn.remainder;
    this.#document.commit(start + handedOut);
    if (this.#document.rollback()) this.#open?.forget();
    for (const token of beginning) this.#push(token);
    this.#unfinished = unfinished;
  }

  /** How the latest generation drew, its seed included. Saved with the session. */
  get sampler(): SamplerSettings | undefined {
    return this.#sampler;
  }

  /**
   * The seed of the generation that began last:
   * `generate({ seed })` of a session in the same place makes the same text.
   */
  get lastSeed(): number | undefined {
    return this.#sampler?.seed;
  }

  /** Logits (V) of the next token. */
  async logits(): Promise<Float32Array | Float64Array> {
    return this.#alone("logits", async () => {
      const { logits, owned } = this.#logits();
      try {
        return (await logits.data()) as Float32Array | Float64Array;
      } catch (error) {
        this.#open?.forget(); // the call that failed has left the open segment behind
        throw error;
      } finally {
        if (owned) logits.dispose();
      }
    });
  }

  /** (1, V); `owned`: to be disposed of by who asked, else by the open segment. */
  #logits(): { logits: Tensor; owned: boolean } {
    const { model } = this,
      document = this.#document;
    if (document.complete) this.#advance(); // a call that failed has left it
    if (decodes(model)) {
      this.#open ??= new OpenSegment(model.decoder(1));
      const opened: OpenedSegments[] = [];
      const begin = (): OpenedSegments => (opened[0] = openSegments(model, [document]));
      try {
        return { logits: this.#open.logits(document.current, model.revision, begin), owned: false };
      } finally {
        opened[0]?.[Symbol.dispose]();
      }
    }
    using opened = openSegments(model, [document]);
    using prefix = Tensor.from(Int32Array.from(document.current), [1, document.current.length]);
    return { logits: model.logits(opened.segment, prefix, opened.state), owned: true };
  }

  #drawing(options: DrawOptions): Drawing {
    if (this.#gaps === undefined) this.#gaps = tokenGaps(this.tokenizer, this.model) ?? null;
    const { device, config } = this.model;
    const facts: DrawFacts = {
      device,
      vocabulary: config.vocabulary,
      bos: config.bos,
      tokens: this.tokenizer.vocabulary,
      gaps: this.#gaps,
    };
    const drawing = new Drawing(options, facts);
    this.#sampler = drawing.settings;
    return drawing;
  }

  #draws(drawing: Drawing): DrawQueue {
    return new DrawQueue(drawing, this.#document, {
      logits: () => {
        const { logits, owned } = this.#logits();
        return { logits, open: owned ? undefined : this.#open };
      },
      revision: () => this.model.revision,
    });
  }

  /** Tokens read or generated that have not reached the memory yet. */
  get pending(): number {
    return this.#document.current.length;
  }

  /** Tokens read and generated since the start of the document. Of a session saved by version 1: of those it held. */
  get position(): number {
    return this.#document.position;
  }

  /** Whether the engine holds its state; else it is in host memory, and comes back with the next call. */
  get resident(): boolean {
    return this.#document.resident;
  }

  /** Whether a call of it is under way. */
  get busy(): boolean {
    return this.#running !== undefined;
  }

  /** Bytes that it holds: its state, M x D numbers of a Memformer, and at most two segments of tokens. */
  get bytes(): number {
    return this.#document.bytes;
  }

  /**
   * Tells `watcher` of every segment that reaches the memory, alone and in a scheduler, and of those taken back, until
   * the function that is returned is called. A clone, and a session restored from this one's bytes, is not watched.
   */
  watch(watcher: MemoryWatcher): () => void {
    return this.#document.watch(watcher);
  }

  /** A second session at the same place; from here on each goes its own way. Throws MemformerError BUSY. */
  clone(): Session<Model> {
    this.#expectIdle("clone");
    const copy = new Session(this.model, this.tokenizer, this.#document.clone());
    copy.#unfinished = this.#unfinished;
    copy.#sampler = this.#sampler;
    return copy;
  }

  /** Back to the start of a document, with the same model and tokenizer. Throws MemformerError BUSY. */
  reset(): void {
    this.#expectIdle("reset");
    this.#open?.forget();
    this.#document.reset();
    this.#unfinished = [];
    this.#sampler = undefined;
  }

  /**
   * Everything to go on with, in another process, another day: the state in the model's precision, at most two segments
   * of tokens, the sampler, and what binds it to the model (a hash of its weights, its configuration) and the
   * tokenizer. Rejects with MemformerError NOT_FINITE when the state holds NaN or infinity.
   */
  async save(): Promise<Uint8Array> {
    return this.#alone("save", async () => {
      const { previous, current, position } = this.#document;
      const [state, binding] = await Promise.all([this.#document.read(), bindingOf(this.model, this.tokenizer)]);
      const parts = { state, previous, current, position, unfinished: this.#unfinished, sampler: this.#sampler };
      return packSession(parts, binding, this.model);
    });
  }

  /**
   * The session that `save` gave; everything is checked before anything is believed. Throws MemformerError
   * CHECKPOINT_FORMAT for other bytes, also for one bit that changed, CHECKPOINT_VERSION for those of a later version,
   * CHECKPOINT_MISMATCH for another model's: of another shape or configuration, of other weights (also of the same
   * model trained on), or with another tokenizer. Sessions saved by earlier versions are read.
   */
  static async restore<Model extends SessionModel>(
    model: Model,
    bytes: Uint8Array,
    tokenizer: Tokenizer | (string & {}) = "bytes",
  ): Promise<Session<Model>> {
    const { state, weights, tokenizer: made, unfinished, sampler, ...place } = unpackSession(bytes, model);
    await expectWeights(weights, model);
    const session = await Session.open(model, tokenizer);
    try {
      expectTokenizer(made, session.tokenizer);
      session.#document.load(state, place);
    } catch (error) {
      session.dispose();
      throw error;
    }
    session.#unfinished = unfinished;
    session.#sampler = sampler;
    return session;
  }

  /** Gives the state's tensors back; the session cannot be used any more. Idempotent. */
  dispose(): void {
    this.#borrower?.();
    this.#gone?.abort(disposed());
    this.#document[Symbol.dispose]();
    this.#open?.[Symbol.dispose]();
    this.#gaps?.dispose();
    this.#gaps = undefined;
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Waits for the state: for the calls made before, where there is none. */
  async #settled(): Promise<void> {
    if (this.model.stateLayout.length === 0) return synchronize();
    return this.#document.settled();
  }

  #begin(call: string): void {
    this.#expectIdle(call);
    this.#running = call;
  }

  #expectIdle(call: string): void {
    if (this.#document.disposed) throw disposed();
    if (this.#running !== undefined) {
      const end = this.#running === "generate" ? "leave its loop (or call its return()) first" : "await it first";
      throw new MemformerError("BUSY", `${call}() came while this session's ${this.#running}() runs; ${end}`);
    }
  }

  async #alone<T>(call: string, body: () => Promise<T>): Promise<T> {
    this.#begin(call);
    try {
      return await body();
    } finally {
      this.#running = undefined;
    }
  }

  /** `drawn`: the open segment has computed all that the memory is written from, and the token is not committed yet. */
  #push(token: number, drawn = false): void {
    const document = this.#document;
    document.push(token);
    if (!drawn) document.commit();
    if (!document.complete) return;
    const ended = drawn ? this.#open?.end(document.current, this.model.revision) : undefined;
    if (ended === undefined) this.#advance();
    else document.advance(ended);
    this.#open?.forget();
  }

  /**
   * Takes in tokens from `at` on: to the end of the segment under way, or as many whole segments as the model takes at
   * once, where `mostSegments` allows it. Returns how many tokens.
   */
  #readOn(tokens: ArrayLike<number>, at: number, mostSegments = Infinity): number {
    const document = this.#document,
      { segmentLength: T } = this.model.config;
    if (document.complete) this.#advance(); // a call that failed has left it
    const atOnce = segmentsAtOnce(this.model),
      whole = atOnce * T;
    if (atOnce > 1 && atOnce <= mostSegments && tokens.length - at >= whole && document.takesWholeSegments) {
      this.#pushWhole(Int32Array.from({ length: whole }, (_, i) => tokens[at + i]!));
      return whole;
    }
    const count = Math.min(tokens.length - at, T - document.current.length);
    for (let i = 0; i < count; i++) this.#push(tokens[at + i]!);
    return count;
  }

  /** Takes in whole segments at a segment's border. */
  #pushWhole(tokens: Int32Array): void {
    const asStored = this.model.advancesNarrow === true;
    using opened = wholeSegments(this.model, this.#document, tokens, { asStored });
    this.#document.advanceBy(tokens, this.model.advanceAll!(opened.segments, opened.state), { asStored });
    this.#open?.forget();
  }

  /** Ends the segment under way, which is complete. */
  #advance(): void {
    const asStored = this.model.advancesNarrow === true;
    using opened = openSegments(this.model, [this.#document], { asStored });
    this.#document.advance(this.model.advance(opened.segment, opened.state), { asStored });
  }
}

function disposed(): MemformerError {
  return new MemformerError("DISPOSED", "this session has been disposed of");
}
