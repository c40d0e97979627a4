/** A stream of text of any length through a memory of constant size: read, generate, save, go on tomorrow. */
import { openTokenizer, type Tokenizer } from "./data/tokenizer.ts";
import { MemformerError } from "./errors.ts";
import type { Memformer } from "./model.ts";
import { masterType } from "./model-files.ts";
import type { State } from "./recurrence.ts";
import { sampler, type SampleOptions } from "./sample.ts";
import { disposeSegment, type SegmentTensors } from "./segment-tensors.ts";
import { PADDING } from "./segment.ts";
import { Tensor, typedArray } from "./tensor.ts";

export interface GenerateOptions extends SampleOptions {
  /** Default 256. */
  readonly maxTokens?: number;
  readonly signal?: AbortSignal;
}

const FORMAT = "memformer-session";

/** One conversation with one model. Calls wait for one another: one at a time. */
export class Session {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  #state: State;
  #previous: Int32Array | undefined; // the segment before, whole; undefined at the start
  #current: number[] = []; // the segment under way, shorter than T

  private constructor(model: Memformer, tokenizer: Tokenizer, state: State) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.#state = state;
  }

  /** A session at the start of a document. `tokenizer`: as in training, default "bytes". */
  static async open(model: Memformer, tokenizer: Tokenizer | "bytes" | "gpt2" | (string & {}) = "bytes"): Promise<Session> {
    const opened = typeof tokenizer === "string" ? await openTokenizer(tokenizer) : tokenizer;
    if (opened.vocabulary > model.config.vocabulary) {
      throw new MemformerError("CONFIG", `tokenizer "${opened.name}" has ${opened.vocabulary} tokens, the model ${model.config.vocabulary}`);
    }
    return new Session(model, opened, model.initialState(1));
  }

  /** Takes text (or tokens) in. Only whole segments reach the memory; the rest is the beginning of the next one. */
  async read(text: string | ArrayLike<number>): Promise<void> {
    const tokens = typeof text === "string" ? this.tokenizer.encode(text) : text;
    for (let i = 0; i < tokens.length; i++) this.#push(tokens[i]!);
    await this.#state[0]!.detach().read(); // waits, so that an error surfaces here
  }

  /** Continues the text, piece by piece; a piece never splits a character. What is generated is remembered as if read. */
  async *generate(options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    const choose = sampler(options), decoder = this.tokenizer.decoder();
    for (let made = 0; made < (options.maxTokens ?? 256); made++) {
      options.signal?.throwIfAborted();
      const token = choose(await this.logits());
      if (token === this.model.config.bos) break; // the end of the document
      this.#push(token);
      const piece = decoder.push([token]);
      if (piece !== "") yield piece;
    }
    const rest = decoder.end();
    if (rest !== "") yield rest;
  }

  /** Logits (V) of the next token. */
  async logits(): Promise<Float32Array | Float64Array> {
    const segment = this.#segment();
    using prefix = Tensor.from(Int32Array.from(this.#current), [1, this.#current.length]);
    using logits = this.model.logits(segment, prefix, this.#state);
    disposeSegment(segment);
    return await logits.data() as Float32Array | Float64Array;
  }

  /** Tokens read or generated that have not reached the memory yet. */
  get pending(): number {
    return this.#current.length;
  }

  /** Everything to go on with, in another process, another day: M x D numbers and at most two segments of tokens. */
  async save(): Promise<Uint8Array> {
    const state = await this.#state[0]!.detach().read();
    const header = JSON.stringify({
      format: FORMAT, version: 1, tokenizer: this.tokenizer.name, shape: state.shape, dtype: state.dtype,
      previous: this.#previous === undefined ? null : [...this.#previous], current: this.#current,
    });
    const text = new TextEncoder().encode(header);
    const bytes = new Uint8Array(4 + text.length + state.data.byteLength);
    new DataView(bytes.buffer).setUint32(0, text.length, true);
    bytes.set(text, 4);
    bytes.set(new Uint8Array(state.data), 4 + text.length);
    return bytes;
  }

  /** The session that `save` gave. Throws MemformerError CHECKPOINT_FORMAT for other bytes, CHECKPOINT_MISMATCH for another model's. */
  static async restore(model: Memformer, bytes: Uint8Array, tokenizer: Tokenizer | (string & {}) = "bytes"): Promise<Session> {
    const session = await Session.open(model, tokenizer);
    const bad = (sentence: string): never => { throw new MemformerError("CHECKPOINT_FORMAT", `these bytes are no saved session: ${sentence}`); };
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = bytes.byteLength < 4 ? bad("fewer than 4 of them") : view.getUint32(0, true);
    if (length > bytes.byteLength - 4) bad("the header runs past their end");
    let header: { format?: unknown; version?: unknown; shape: number[]; previous: number[] | null; current: number[]; tokenizer: string };
    try {
      header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(4, 4 + length))) as typeof header;
    } catch {
      return bad("the header is no JSON");
    }
    if (header.format !== FORMAT || header.version !== 1) bad(`format ${String(header.format)}, version ${String(header.version)}`);
    const { memorySlots, width, segment, vocabulary } = model.config, dtype = masterType(model.config);
    const wanted = [1, memorySlots, width];
    if (header.shape.join() !== wanted.join() || header.tokenizer !== session.tokenizer.name) {
      throw new MemformerError("CHECKPOINT_MISMATCH",
        `the session is of another model: memory [${header.shape.join(", ")}] and tokenizer "${header.tokenizer}", expected [${wanted.join(", ")}] and "${session.tokenizer.name}"`);
    }
    const data = bytes.slice(4 + length);
    if (data.byteLength !== model.stateBytes) bad(`${data.byteLength} bytes of memory, expected ${model.stateBytes}`);
    const valid = (tokens: number[]): boolean => tokens.every((token) => Number.isInteger(token) && token >= 0 && token < vocabulary);
    if ((header.previous !== null && (header.previous.length !== segment || !valid(header.previous))) || header.current.length >= segment || !valid(header.current)) bad("its tokens do not fit the model");
    for (const tensor of session.#state) tensor.dispose();
    session.#state = [Tensor.from(typedArray(dtype, data.buffer), wanted, dtype)];
    session.#previous = header.previous === null ? undefined : Int32Array.from(header.previous);
    session.#current = [...header.current];
    return session;
  }

  dispose(): void {
    for (const tensor of this.#state) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #push(token: number): void {
    this.#current.push(token);
    if (this.#current.length < this.model.config.segment) return;
    const segment = this.#segment();
    const next = this.model.advance(segment, this.#state);
    disposeSegment(segment);
    for (const tensor of this.#state) tensor.dispose();
    this.#state = next;
    this.#previous = Int32Array.from(this.#current);
    this.#current = [];
  }

  /** The segment under way as the model sees it: what came before as source, itself as target. */
  #segment(): SegmentTensors {
    const { segment: T, bos } = this.model.config;
    const start = this.#previous === undefined;
    const source = this.#previous ?? new Int32Array(T).fill(PADDING).fill(bos, 0, 1);
    const target = new Int32Array(T).fill(PADDING);
    target.set(this.#current);
    return this.model.upload({ batch: 1, length: T, source, target, reset: Uint8Array.of(start ? 1 : 0), padded: start || this.#current.length < T });
  }
}
