/**
 * Incremental decoding: the open segments of a model's rows, one a slot, each at its own place. A token costs one pass
 * of one row; nothing is computed twice.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { Tensor } from "../engine/tensor.ts";
import type { State } from "../model/recurrence.ts";
import { segmentHandle, type SegmentTensors } from "../model/segment-tensors.ts";
import type { DecoderHandle, ModelHandle, NativeSampling } from "../native/addon.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import { checkOptions, optionSchema } from "../options.ts";

/** Settings of {@link Memformer.decoder}. */
export interface DecoderOptions {
  /**
   * Whether a row's numbers are the same to the bit whatever rows are beside it. Default true: a segment is begun, and
   * its state computed, row by row. False: of all rows at once, which is faster where many begin together; their
   * numbers then differ by rounding. Steps and runs are the same to the bit in either case.
   */
  readonly deterministic?: boolean | undefined;
}

const decoderSchema = optionSchema<DecoderOptions>({ deterministic: z.boolean().optional() });

/** What a decoder is of. */
export interface DecodedModel {
  readonly handle: ModelHandle;
  /** Tokens of a segment. */
  readonly length: number;
  readonly vocabulary: number;
  /** The token that ends a document. */
  readonly bos: number;
  /** Parts of the state. */
  readonly stateParts: number;
}

/** How a run draws; see {@link Decoder.run}. */
export interface RunSampling {
  /** 0: the likeliest token. */
  readonly temperature: number;
  /** Of the likeliest tokens so many; 0: all. */
  readonly topK: number;
  /** Of the likeliest tokens those that hold so much of the probability; 1: all. */
  readonly topP: number;
  /** Ids from here on are never drawn, but BOS. */
  readonly tokens: number;
  /** Logits below it, relative to the largest, count as -Infinity. Default -Infinity: none does. */
  readonly floor?: number | undefined;
  /** (1, V) float64, added to the logits before anything else. Default null: nothing is. */
  readonly bias?: Tensor | null | undefined;
  /** (1, V), added to the logits after the bias; null: nothing is. */
  readonly gaps: Tensor | null;
}

/**
 * Caches of `slots` open segments on the engine. Its logits are those of `model.logits` for the same tokens, to
 * rounding; a row's logits are the same to the bit whatever rows are beside it, unless it was made otherwise
 * ({@link DecoderOptions.deterministic}), and whether its tokens came one at a time or at once. It computes with the
 * weights that the model had when a segment began: begin it again once they have changed. Free it with `using` or
 * `dispose()`.
 */
export class Decoder implements Disposable {
  /** How many segments may be open. */
  readonly slots: number;
  /** Tokens of a segment. */
  readonly length: number;
  readonly #model: DecodedModel;
  #handle: DecoderHandle | undefined;
  /** Tokens of each slot's open segment; undefined: none is open. */
  readonly #positions: (number | undefined)[];

  /** @internal Use {@link Memformer.decoder}. */
  constructor(model: DecodedModel, slots: number, options: DecoderOptions = {}) {
    if (!Number.isSafeInteger(slots) || slots < 1)
      throw new MemformerError("CONFIG", `slots must be a whole number of at least 1, got ${String(slots)}`);
    checkOptions(decoderSchema, options, "decoder");
    const { deterministic = true } = options;
    this.slots = slots;
    this.length = model.length;
    this.#model = model;
    this.#handle = guarded((addon) => addon.createDecoder(model.handle, slots, deterministic));
    this.#positions = new Array<undefined>(slots).fill(undefined);
  }

  /** Tokens that a slot's open segment holds; undefined: none is open. Throws MemformerError CONFIG for no slot. */
  position(slot = 0): number | undefined {
    this.#checkSlots([slot]);
    return this.#positions[slot];
  }

  /**
   * Begins a segment in each of `slots`, from the row of `segment` and `state` of the same number; what
   * `segment.target` holds is not looked at. What a slot held before is gone. Returns the logits (B, V) of the first
   * token. Throws MemformerError SHAPE, CONFIG.
   */
  begin(segment: SegmentTensors, state: State, slots: readonly number[] = [0]): Tensor {
    this.#checkSlots(slots);
    if (segment.batch !== slots.length || state.length !== this.#model.stateParts) {
      throw new MemformerError(
        "SHAPE",
        `begin() takes a row of the segment a slot and a state of ${this.#model.stateParts} tensor(s); ` +
          `got ${segment.batch} rows for ${slots.length} slots and ${state.length} tensors`,
      );
    }
    const call = nextCall();
    using seed = Tensor.from(BigInt64Array.of(0n), []);
    const [logits] = guarded((addon) =>
      addon.beginSegment(
        call,
        this.#decoder,
        slots,
        segmentHandle(segment, seed),
        state.map((tensor) => tensor.handle),
      ),
    );
    for (const slot of slots) this.#positions[slot] = 0;
    return new Tensor(logits!);
  }

  /**
   * One more token in each of `slots`, which may stand at different places. Returns the logits (R, V) of those that
   * follow. `tokens` may be a tensor (R) int64 on the model's device, of tokens that were drawn and not yet looked at:
   * the step is then under way before anyone knows them. Throws MemformerError TOKEN_RANGE, CONFIG for a slot without
   * an open segment or named twice, SHAPE where a segment has no token left to predict.
   */
  step(tokens: readonly number[] | Tensor, slots: readonly number[] = [0]): Tensor {
    this.#checkSlots(slots);
    if (!(tokens instanceof Tensor)) {
      if (tokens.length !== slots.length)
        throw new MemformerError(
          "SHAPE",
          `step() takes a token a slot, got ${tokens.length} for ${slots.length} slots`,
        );
      this.#checkTokens(tokens);
    }
    const positions = slots.map((slot) => this.#room(slot, 1)),
      given = tokens instanceof Tensor ? ([tokens.handle] as const) : tokens,
      call = nextCall();
    const [logits] = guarded((addon) => addon.decodeStep(call, this.#decoder, given, slots, positions));
    slots.forEach((slot, r) => (this.#positions[slot] = positions[r]! + 1));
    return new Tensor(logits!);
  }

  /**
   * Draws N tokens in each of `slots`, the first from `logits` (R, V), and takes in each that another follows; the last
   * too with `takeLast`. `points`: N x R numbers of [0, 1), the rows of a draw beside each other, where each draw falls
   * in the cumulated probabilities, the likeliest token first. `sampling`: of all rows, or of each its own. `draws`:
   * how many tokens each row draws, N of the first and never more than of the row before; default N of all. Returns the
   * tokens (N, R) int64, -1 where a row could draw nothing and after its last draw, and the logits after those taken
   * in, (R, V): of the rows that draw N alone, which are the first. All of it is under way before anyone looks at a
   * token; rows draw the same, to the bit, as by {@link step}, one at a time. Throws MemformerError CONFIG, SHAPE.
   */
  run(
    logits: Tensor,
    points: Float64Array,
    sampling: RunSampling | readonly RunSampling[],
    slots: readonly number[] = [0],
    takeLast = true,
    draws?: readonly number[],
  ): { tokens: Tensor; logits: Tensor } {
    this.#checkSlots(slots);
    const R = slots.length,
      N = points.length / R,
      settings = "temperature" in sampling ? new Array<RunSampling>(R).fill(sampling) : sampling;
    if (settings.length !== R)
      throw new MemformerError(
        "SHAPE",
        `run() takes a sampling a slot, or one of all, got ${settings.length} for ${R}`,
      );
    for (const { floor = -Infinity } of settings)
      if (!(floor <= 0)) throw new MemformerError("CONFIG", `floor must be a number of at most 0, got ${floor}`);
    if (N < 1 || !Number.isInteger(N))
      throw new MemformerError("SHAPE", `run() takes a point a draw and slot, got ${points.length} for ${R} slots`);
    const own = draws ?? new Array<number>(R).fill(N),
      fits = (count: number, r: number): boolean =>
        Number.isInteger(count) && count >= 1 && (r === 0 ? count === N : count <= own[r - 1]!);
    if (own.length !== R || !own.every(fits)) {
      throw new MemformerError(
        "SHAPE",
        `run() takes draws a slot, ${N} of the first and never more than of the one before; got ${own.join(", ")}`,
      );
    }
    const taken = own.map((count) => (takeLast && count === N ? N : count - 1)),
      positions = slots.map((slot, r) => this.#room(slot, taken[r]!)),
      call = nextCall();
    using at = Tensor.from(points, [N, R]);
    const given = [logits, at],
      { samplings, of } = this.#samplings(settings, given);
    const handles = given.map(({ handle }) => handle);
    const [tokens, after] = guarded((addon) =>
      addon.decodeRun(call, this.#decoder, handles, samplings, of, slots, positions, own, takeLast),
    );
    slots.forEach((slot, r) => (this.#positions[slot] = positions[r]! + taken[r]!));
    return { tokens: new Tensor(tokens!), logits: new Tensor(after!) };
  }

  /** The same tokens as so many steps of one slot, at once: the logits (1, V) after the last. */
  prefill(tokens: readonly number[], slot = 0): Tensor {
    this.#checkSlots([slot]);
    if (tokens.length === 0) throw new MemformerError("SHAPE", "prefill() takes at least one token, got none");
    this.#checkTokens(tokens);
    const position = this.#room(slot, tokens.length),
      call = nextCall();
    const [logits] = guarded((addon) => addon.decodePrefill(call, this.#decoder, tokens, slot, position));
    this.#positions[slot] = position + tokens.length;
    return new Tensor(logits!);
  }

  /**
   * The state after the segments of these slots: of the tokens they hold, and of the one that follows, which is not
   * read before the next segment. The slots are closed.
   */
  end(slots: readonly number[] = [0]): State {
    this.#checkSlots(slots);
    const positions = slots.map((slot) => this.#room(slot, 0)),
      call = nextCall();
    const parts = guarded((addon) => addon.endSegment(call, this.#decoder, slots, positions, this.#model.stateParts));
    for (const slot of slots) this.#positions[slot] = undefined;
    return parts.map((handle) => new Tensor(handle));
  }

  /** How many kinds of step are recorded on a GPU, and why one could not be, empty where none failed. */
  async capturedGraphs(): Promise<{ readonly steps: number; readonly refusal: string }> {
    const call = nextCall();
    return waited((addon) => addon.decoderGraphs(call, this.#decoder));
  }

  /** Frees the caches once the calls made before have run. Idempotent. */
  dispose(): void {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    guarded((addon) => {
      addon.dropDecoder(nextCall(), handle);
    });
  }

  /** For `using`: as `dispose`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Settings that differ, and which of them each row has. Their tensors go behind those in `tensors`. */
  #samplings(rows: readonly RunSampling[], tensors: Tensor[]): { samplings: NativeSampling[]; of: number[] } {
    const place = (tensor: Tensor | null): number => {
      if (tensor === null) return -1;
      const there = tensors.indexOf(tensor, 2);
      return there < 0 ? tensors.push(tensor) - 1 : there;
    };
    const places = new Map<string, number>(),
      samplings: NativeSampling[] = [];
    const of = rows.map(({ floor = -Infinity, bias = null, gaps, ...others }) => {
      const { temperature, topK, topP, tokens } = others,
        own = { temperature, topK, topP, floor, tokens, also: this.#model.bos, bias: place(bias), gaps: place(gaps) };
      const key = Object.values(own).join(" ");
      if (!places.has(key)) places.set(key, samplings.push(own) - 1);
      return places.get(key)!;
    });
    return { samplings, of };
  }

  get #decoder(): DecoderHandle {
    if (this.#handle === undefined) throw new MemformerError("DISPOSED", "this decoder has been disposed of");
    return this.#handle;
  }

  #checkSlots(slots: readonly number[]): void {
    if (slots.length === 0) throw new MemformerError("CONFIG", "slots must name at least one slot, got none");
    for (const [i, slot] of slots.entries()) {
      if (!Number.isSafeInteger(slot) || slot < 0 || slot >= this.slots) {
        throw new MemformerError("CONFIG", `there is no slot ${String(slot)}; this decoder has ${this.slots}, from 0`);
      }
      if (slots.indexOf(slot) !== i) throw new MemformerError("CONFIG", `slot ${slot} is named twice`);
    }
  }

  #checkTokens(tokens: readonly number[]): void {
    const { vocabulary } = this.#model;
    for (const [i, token] of tokens.entries()) {
      if (Number.isInteger(token) && token >= 0 && token < vocabulary) continue;
      throw new MemformerError(
        "TOKEN_RANGE",
        `token ${String(token)} at position ${i} is outside the vocabulary of ${vocabulary}`,
        { details: { token, position: i, vocabulary } },
      );
    }
  }

  /** Where the slot stands; it must be open, and `more` tokens must leave one to predict. */
  #room(slot: number, more: number): number {
    const position = this.#positions[slot],
      { length } = this.#model;
    if (position === undefined)
      throw new MemformerError("CONFIG", `slot ${slot} has no open segment; call begin() first`);
    if (position + more >= length) {
      throw new MemformerError(
        "SHAPE",
        `slot ${slot} holds ${position} of its segment's ${length} tokens; ${more} more leave none to predict`,
      );
    }
    return position;
  }
}
