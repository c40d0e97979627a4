/** A stream of text of any length through a memory of constant size: read, generate, save, go on tomorrow. */
import { z } from "zod";
import { encodeAsync } from "../data/encode-async.ts";
import { openTokenizer } from "../data/tokenizers/open.ts";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { MemformerError } from "../errors.ts";
import type { SessionModel } from "./session-model.ts";
import type { State } from "../model/recurrence.ts";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import { drawsOf, sampleShape, unfitLogits, type Draws, type SampleOptions } from "./sample.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import { PADDING } from "../data/segment.ts";
import { packSession, unpackSession } from "./session-format.ts";
import { synchronize } from "../engine/runtime.ts";
import { applyOperator, placed, Tensor } from "../engine/tensor.ts";
import { tokenGaps } from "./token-gaps.ts";
import { decodes, OpenSegment } from "./open-segment.ts";

/** How much to generate, how to draw it, and what stops it. */
export interface GenerateOptions extends SampleOptions {
  /** A whole number of at least 0. Default 256. */
  readonly maxTokens?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const generateSchema = optionSchema<GenerateOptions>({
  ...sampleShape,
  maxTokens: z.int().nonnegative().optional(),
  signal: optionTypes.signal.optional(),
});

/**
 * One conversation with one model. One call at a time: wait for a call, and end a generation, before the next, which is
 * refused with MemformerError BUSY otherwise.
 */
export class Session<Model extends SessionModel = SessionModel> {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  #state: State;
  #previous: Int32Array | undefined; // the segment before, whole; undefined at the start
  #current: number[] = []; // the segment under way, shorter than T
  #running: string | undefined; // the call under way
  #seed: number | undefined; // of the latest generation
  #open: OpenSegment | undefined; // made by the first logits
  #gaps: Tensor | null | undefined; // ids never drawn; made by the first draw, null where there are none

  private constructor(model: Model, tokenizer: Tokenizer, state: State) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.#state = state;
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
    return new Session(model, opened, model.initialState(1));
  }

  /**
   * Takes text (or tokens) in. Only whole segments reach the memory; the rest is the beginning of the next one. Text
   * continues what the session holds: nothing is put before it, but no token spans two calls. A long text is encoded in
   * turns with the thread's other work.
   * Throws MemformerError TOKEN_RANGE for a token outside the vocabulary; nothing is taken in then.
   */
  async read(text: string | ArrayLike<number>): Promise<void> {
    return this.#alone("read", async () => this.#read(text));
  }

  async #read(text: string | ArrayLike<number>): Promise<void> {
    const { vocabulary } = this.model.config,
      continues = this.#context().length > 0;
    const tokens = typeof text === "string" ? await encodeAsync(this.tokenizer, text, { continues }) : text;
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!;
      if (Number.isInteger(token) && token >= 0 && token < vocabulary) continue;
      throw new MemformerError(
        "TOKEN_RANGE",
        `token ${token} at position ${i} is outside the vocabulary of ${vocabulary}`,
        { details: { token, position: i, vocabulary } },
      );
    }
    const piece = 256 * this.model.config.segmentLength; // what is enqueued at once: a text of any length takes bounded memory
    for (let from = 0; from < tokens.length; from += piece) {
      for (let i = from; i < Math.min(from + piece, tokens.length); i++) this.#push(tokens[i]!);
      await this.#settled(); // also so that an error surfaces here
    }
  }

  /**
   * Continues the text, piece by piece; a piece never splits a character. What is generated is remembered as if read.
   * Ends with the document: when BOS is drawn. Ids that the tokenizer has no text for are never drawn. Without a seed
   * each call draws anew; {@link lastSeed} tells by what. The iterator rejects with MemformerError CONFIG for unknown
   * options and for those out of range, NOT_FINITE when the model's logits are not finite, and the signal's reason.
   */
  async *generate(options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    checkOptions(generateSchema, options, "generate");
    const draws = drawsOf(options);
    this.#begin("generate");
    this.#seed = draws.seed;
    try {
      const decoder = this.tokenizer.decoder(this.#context()); // a token's text may depend on the one before
      for (let made = 0; made < (options.maxTokens ?? 256); made++) {
        options.signal?.throwIfAborted();
        const token = await this.#draw(draws);
        if (token === this.model.config.bos) break; // the end of the document
        this.#push(token, true);
        const piece = decoder.push([token]);
        if (piece !== "") yield piece;
      }
      const rest = decoder.end();
      if (rest !== "") yield rest;
    } finally {
      this.#running = undefined;
    }
  }

  /**
   * The seed of the generation that began last:
   * `generate({ seed })` of a session in the same place makes the same text.
   */
  get lastSeed(): number | undefined {
    return this.#seed;
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
    const { model } = this;
    if (decodes(model)) {
      this.#open ??= new OpenSegment(model.decoder(1));
      const begin = (): { segment: SegmentTensors; state: State } => ({ segment: this.#segment(), state: this.#state });
      return { logits: this.#open.logits(this.#current, model.revision, begin), owned: false };
    }
    const segment = this.#segment();
    using prefix = Tensor.from(Int32Array.from(this.#current), [1, this.#current.length]);
    const logits = this.model.logits(segment, prefix, this.#state);
    disposeSegment(segment);
    return { logits, owned: true };
  }

  /** The same, -infinity for ids that the tokenizer has no token for. */
  #drawable(): { logits: Tensor; owned: boolean } {
    const given = this.#logits();
    if (this.#gaps === undefined) this.#gaps = tokenGaps(this.tokenizer, this.model) ?? null;
    if (this.#gaps === null) return given;
    const masked = applyOperator("aten::add.Tensor", given.logits, this.#gaps);
    if (given.owned) given.logits.dispose();
    return { logits: masked, owned: true };
  }

  /** Draws where the logits are: only the token's id comes back. */
  async #draw({ temperature, topK, topP, next }: Draws): Promise<number> {
    const { bos } = this.model.config,
      k = topK === Infinity ? 0 : topK;
    const { logits, owned } = this.#drawable();
    using point = placed(Tensor.from(Float64Array.of(temperature === 0 ? 0 : next()), [1]), this.model.device);
    using drawn = applyOperator(
      "memformer::sample_token",
      logits,
      point,
      temperature,
      k,
      topP,
      this.tokenizer.vocabulary,
      bos,
    );
    if (owned) logits.dispose();
    try {
      const token = await drawn.item();
      if (token < 0) throw unfitLogits();
      return token;
    } catch (error) {
      this.#open?.forget();
      throw error;
    }
  }

  /** The last tokens read or generated, at most two segments of them. */
  #context(): number[] {
    return [...(this.#previous ?? []), ...this.#current];
  }

  /** Tokens read or generated that have not reached the memory yet. */
  get pending(): number {
    return this.#current.length;
  }

  /**
   * Everything to go on with, in another process, another day: the state, M x D numbers of a Memformer, at most two
   * segments of tokens, and a hash of the model's weights. Rejects with MemformerError NOT_FINITE when the state holds
   * NaN or infinity.
   */
  async save(): Promise<Uint8Array> {
    return this.#alone("save", async () =>
      packSession({
        layout: this.model.stateLayout,
        tokenizer: this.tokenizer.name,
        weights: await this.model.weightsHash(),
        state: await Promise.all(this.#state.map((tensor) => tensor.read())),
        previous: this.#previous === undefined ? null : [...this.#previous],
        current: this.#current,
      }),
    );
  }

  /**
   * The session that `save` gave. Throws MemformerError CHECKPOINT_FORMAT for other bytes, CHECKPOINT_MISMATCH for
   * another model's: of another shape, of other weights (also of the same model trained on), or with another tokenizer.
   */
  static async restore<Model extends SessionModel>(
    model: Model,
    bytes: Uint8Array,
    tokenizer: Tokenizer | (string & {}) = "bytes",
  ): Promise<Session<Model>> {
    const { header, state } = unpackSession(bytes, model);
    const weights = header.weights === undefined ? undefined : await model.weightsHash();
    if (header.weights !== weights) {
      throw new MemformerError(
        "CHECKPOINT_MISMATCH",
        "the session is of another model: it was saved with other weights than this model's",
        { details: { expected: weights, found: header.weights } },
      );
    }
    const session = await Session.open(model, tokenizer);
    if (header.tokenizer !== session.tokenizer.name) {
      const { name } = session.tokenizer;
      session.dispose();
      throw new MemformerError(
        "CHECKPOINT_MISMATCH",
        `the session was made with tokenizer "${header.tokenizer}", not "${name}"`,
      );
    }
    for (const tensor of session.#state) tensor.dispose();
    session.#state = state.map(({ data, shape, dtype }) => Tensor.from(data, shape, dtype));
    session.#previous = header.previous === null ? undefined : Int32Array.from(header.previous);
    session.#current = [...header.current];
    return session;
  }

  /** Gives the state's tensors back; the session cannot be used any more. */
  dispose(): void {
    for (const tensor of this.#state) tensor.dispose();
    this.#open?.[Symbol.dispose]();
    this.#gaps?.dispose();
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Waits for the state: for the calls made before, where there is none. */
  async #settled(): Promise<void> {
    if (this.#state.length === 0) return synchronize();
    await Promise.all(this.#state.map((tensor) => tensor.read()));
  }

  #begin(call: string): void {
    if (this.#running !== undefined) {
      const end = this.#running === "generate" ? "leave its loop (or call its return()) first" : "await it first";
      throw new MemformerError("BUSY", `${call}() came while this session's ${this.#running}() runs; ${end}`);
    }
    this.#running = call;
  }

  async #alone<T>(call: string, body: () => Promise<T>): Promise<T> {
    this.#begin(call);
    try {
      return await body();
    } finally {
      this.#running = undefined;
    }
  }

  /** `drawn`: the open segment has computed all that the memory is written from. */
  #push(token: number, drawn = false): void {
    this.#current.push(token);
    if (this.#current.length < this.model.config.segmentLength) return;
    const ended = drawn ? this.#open?.end(this.#current, this.model.revision) : undefined;
    const next = ended ?? this.#advanced();
    this.#open?.forget();
    for (const tensor of this.#state) tensor.dispose();
    this.#state = next;
    this.#previous = Int32Array.from(this.#current);
    this.#current = [];
  }

  #advanced(): State {
    const segment = this.#segment();
    const next = this.model.advance(segment, this.#state);
    disposeSegment(segment);
    return next;
  }

  /** The segment under way as the model sees it: what came before as source, itself as target. */
  #segment(): SegmentTensors {
    const { segmentLength: T, bos } = this.model.config;
    const start = this.#previous === undefined;
    const source = this.#previous ?? new Int32Array(T).fill(PADDING).fill(bos, 0, 1);
    const target = new Int32Array(T).fill(PADDING);
    target.set(this.#current);
    return this.model.upload({ batch: 1, length: T, source, target, reset: Uint8Array.of(start ? 1 : 0) });
  }
}
