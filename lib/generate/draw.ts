/**
 * Drawing the next token of a session where its logits are: repetition penalty, bias, the caller's own function, then
 * temperature, min-p, top-k, top-p and the draw at (seed, position). Only what was asked for comes back: the token's
 * id, and log-probabilities. A row is drawn by itself, with the same bits alone and in a batch.
 */
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { applyOperator, callOperator, placed, Tensor, tidy } from "../engine/tensor.ts";
import { optionTypes } from "../options.ts";
import type { RunSampling } from "./decoder.ts";
import {
  drawingPoint,
  minPFloor,
  sampleSettings,
  sampleShape,
  unfitLogits,
  type SampleOptions,
  type SampleSettings,
} from "./sample.ts";

/** What a {@link LogitsProcessor} may look at. */
export interface LogitsContext {
  /** Tokens before the one that is drawn: its place in the document. */
  readonly position: number;
  /** The last of them, at most two segments. */
  readonly context: readonly number[];
}

/**
 * Changes a row of logits (V) in place, or returns others, of the same length; -Infinity bans a token. It is called
 * once for each token that is drawn, after penalty and bias.
 */
export type LogitsProcessor = (
  logits: Float64Array,
  context: LogitsContext,
) => void | ArrayLike<number> | Promise<void | ArrayLike<number>>;

/** How a session draws the next token. */
export interface DrawOptions extends SampleOptions {
  /**
   * Divides the positive logits of the tokens seen last by it, and multiplies the negative ones. Above 1 it
   * discourages repeating. Default 1: nothing.
   */
  readonly repetitionPenalty?: number | undefined;
  /** How many of the last tokens are penalized; a session holds one to two segments of them. Default 64. */
  readonly repetitionWindow?: number | undefined;
  /** Log-probabilities of the model itself: of the drawn token, and of so many of the likeliest. Default: none. */
  readonly logprobs?: number | undefined;
  readonly logitsProcessor?: LogitsProcessor | undefined;
}

/** @internal */
export const drawShape = {
  ...sampleShape,
  repetitionPenalty: z.number().positive().optional(),
  repetitionWindow: z.int().nonnegative().optional(),
  logprobs: z.int().nonnegative().optional(),
  logitsProcessor: optionTypes.call.optional(),
};

/** A token with the model's own log-probability, in nats: before penalty, bias, temperature and what is cut off. */
export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
}

/** A token that was drawn. */
export interface Drawn {
  readonly id: number;
  /** With `logprobs`. */
  readonly logprob?: number;
  /** With `logprobs` above 0: the likeliest tokens, the likeliest first. */
  readonly top?: readonly TokenLogprob[];
}

/** What drawing needs to know of model and tokenizer. */
export interface DrawFacts {
  readonly device: string;
  readonly vocabulary: number;
  readonly bos: number;
  /** Ids from here on are never drawn, but BOS. */
  readonly tokens: number;
  /** (1, V), added to all logits; see token-gaps.ts. */
  readonly gaps: Tensor | null;
}

/** Settings of one generation, as a saved session keeps them. */
export interface SamplerSettings extends SampleSettings {
  readonly repetitionPenalty: number;
  readonly repetitionWindow: number;
}

/** The draws of one generation. */
export class Drawing implements Disposable {
  readonly settings: SamplerSettings;
  /** Rows with equal keys may be drawn in one call; undefined: not with others. */
  readonly batchKey: string | undefined;
  readonly facts: DrawFacts;
  readonly #logprobs: number | undefined;
  readonly #process: LogitsProcessor | undefined;
  readonly #bias: Tensor | undefined; // (1, V) float64

  /** Throws MemformerError CONFIG for a bias or a number of log-probabilities outside the vocabulary. */
  constructor(options: DrawOptions, facts: DrawFacts) {
    const { repetitionPenalty = 1, repetitionWindow = 64, logprobs, logitsProcessor } = options;
    const settings = { ...sampleSettings(options), repetitionPenalty, repetitionWindow };
    const { vocabulary } = facts;
    for (const [id] of settings.bias)
      if (id >= vocabulary) throw outside(`logitBias: token ${id} is outside the vocabulary of ${vocabulary}`, id);
    if (logprobs !== undefined && logprobs > vocabulary)
      throw outside(`logprobs: ${logprobs} is more than the vocabulary of ${vocabulary}`, logprobs);
    this.settings = settings;
    this.facts = facts;
    this.#logprobs = logprobs;
    this.#process = logitsProcessor;
    if (settings.bias.length > 0) {
      const row = new Float64Array(vocabulary);
      for (const [id, value] of settings.bias) row[id] = value;
      this.#bias = placed(Tensor.from(row, [1, vocabulary]), facts.device);
    }
    const extra =
      logprobs !== undefined || logitsProcessor !== undefined || this.#bias !== undefined || repetitionPenalty !== 1;
    const { temperature, topK, topP, minP } = settings;
    this.batchKey = extra || minP > 0 ? undefined : `${temperature} ${topK} ${topP}`;
  }

  [Symbol.dispose](): void {
    this.#bias?.dispose();
  }

  /** Whether its draws need nothing but logits and {@link points}: {@link Decoder.run} can make them. */
  get runs(): boolean {
    const penalized = this.settings.repetitionPenalty !== 1; // by the tokens before it, which a run does not know
    return !penalized && this.#logprobs === undefined && this.#process === undefined;
  }

  /** As {@link Decoder.run} takes it. */
  get sampling(): RunSampling {
    const { temperature, topK, topP } = this.settings,
      { tokens, gaps } = this.facts;
    const floor = minPFloor(this.settings),
      bias = this.#bias ?? null;
    return { temperature, topK: topK === Infinity ? 0 : topK, topP, floor, bias, tokens, gaps };
  }

  /** Where the draws of `count` places of a document fall, from `position` on. */
  points(position: number, count: number): Float64Array {
    const { temperature, seed } = this.settings;
    return Float64Array.from({ length: count }, (_, i) => (temperature === 0 ? 0 : drawingPoint(seed, position + i)));
  }

  /**
   * Draws from logits (1, V), which stay the caller's. `goAhead` is given the token (1) int64 as soon as it is
   * enqueued, before anyone knows which it is; the tensor stays this method's. Rejects with MemformerError NOT_FINITE
   * when nothing can be drawn from them, SHAPE when the caller's function returns another number of logits.
   */
  async draw(logits: Tensor, where: LogitsContext, goAhead?: (token: Tensor) => void): Promise<Drawn> {
    const adjusted = tidy(() => this.#adjusted(logits, where));
    const processed = this.#process === undefined ? adjusted : await this.#processed(this.#process, adjusted, where);
    try {
      const { drawn, logprob, top } = tidy(() => this.#drawn(logits, processed, where.position));
      const read = [drawn, ...logprob, ...top].map(async (tensor) => tensor.data());
      goAhead?.(drawn); // behind the read, which would wait for the step
      for (const tensor of [drawn, ...logprob, ...top]) tensor.dispose();
      const [id, chosen, values, ids] = await Promise.all(read);
      if (Number(id![0]) < 0) throw unfitLogits();
      return {
        id: Number(id![0]),
        ...(chosen && { logprob: Number(chosen[0]) }),
        ...(values && {
          top: Array.from(values as Float64Array, (value, i) => ({ id: Number(ids![i]), logprob: value })),
        }),
      };
    } finally {
      if (processed !== logits) processed.dispose();
    }
  }

  /** The logits with penalty and bias; themselves where there is neither. */
  #adjusted(logits: Tensor, where: LogitsContext): Tensor {
    const { repetitionPenalty: penalty, repetitionWindow: window, minP } = this.settings;
    const plain = penalty === 1 && this.#bias === undefined && minP === 0 && this.#process === undefined;
    if (plain) return logits;
    let row = applyOperator("aten::_to_copy", logits, "float64");
    const seen = penalty === 1 || window === 0 ? [] : [...new Set(where.context.slice(-window))];
    if (seen.length > 0) {
      const ids = placed(Tensor.from(BigInt64Array.from(seen, BigInt), [1, seen.length]), this.facts.device);
      const held = applyOperator("aten::gather", row, 1, ids, false);
      const changed = applyOperator(
        "aten::where.self",
        applyOperator("aten::gt.Scalar", held, 0),
        applyOperator("aten::div.Scalar", held, penalty),
        applyOperator("aten::mul.Scalar", held, penalty),
      );
      row = applyOperator("aten::scatter.src", row, 1, ids, changed);
    }
    return this.#bias === undefined ? row : applyOperator("aten::add.Tensor", row, this.#bias);
  }

  async #processed(process: LogitsProcessor, adjusted: Tensor, where: LogitsContext): Promise<Tensor> {
    const { vocabulary, device } = this.facts;
    const row = Float64Array.from((await adjusted.data()) as Float64Array);
    adjusted.dispose();
    const given = (await process(row, { position: where.position, context: where.context })) ?? row;
    if (given.length !== vocabulary) {
      throw new MemformerError(
        "SHAPE",
        `logitsProcessor must return ${vocabulary} logits or nothing, got ${given.length}`,
        { details: { expected: vocabulary, found: given.length } },
      );
    }
    return placed(Tensor.from(Float64Array.from(given), [1, vocabulary]), device);
  }

  #drawn(logits: Tensor, processed: Tensor, position: number): { drawn: Tensor; logprob: Tensor[]; top: Tensor[] } {
    const drawn = sampleRows(this.#cut(processed), this, this.points(position, 1));
    if (this.#logprobs === undefined) return { drawn, logprob: [], top: [] };
    const all = applyOperator("aten::log_softmax.int", logits, -1, "float64");
    const at = applyOperator("aten::unsqueeze", applyOperator("aten::clamp_min", drawn, 0), 1);
    const logprob = applyOperator("aten::gather", all, 1, at, false);
    const top = this.#logprobs > 0 ? callOperator("aten::topk", all, this.#logprobs, -1, true, true) : [];
    return { drawn, logprob: [logprob], top };
  }

  /** -infinity where min-p or a gap of the tokenizer forbids a token. */
  #cut(row: Tensor): Tensor {
    const open = withGaps(row, this.facts);
    const floor = minPFloor(this.settings);
    if (floor === -Infinity) return open;
    const top = applyOperator("aten::amax", open, [-1], true);
    const low = applyOperator("aten::lt.Scalar", applyOperator("aten::sub.Tensor", open, top), floor);
    return applyOperator("aten::masked_fill.Scalar", open, low, -Infinity);
  }
}

/**
 * (R) int64: the tokens that rows (R, V) draw, each by its own seed in its own place, by the settings of all of them
 * ({@link Drawing.batchKey}); -1 where none can be drawn.
 */
export function drawRows(logits: Tensor, drawings: readonly Drawing[], positions: readonly number[]): Tensor {
  const first = drawings[0]!,
    points = Float64Array.from(drawings, (drawing, row) => drawing.points(positions[row]!, 1)[0]!);
  return tidy(() => sampleRows(withGaps(logits, first.facts), first, points));
}

function withGaps(rows: Tensor, { gaps }: DrawFacts): Tensor {
  return gaps === null ? rows : applyOperator("aten::add.Tensor", rows, gaps);
}

function sampleRows(logits: Tensor, drawing: Drawing, points: Float64Array): Tensor {
  const { temperature, topK, topP, tokens } = drawing.sampling,
    { device, bos } = drawing.facts;
  const at = placed(Tensor.from(points, [points.length]), device);
  return applyOperator("memformer::sample_token", logits, at, temperature, topK, topP, tokens, bos);
}

function outside(sentence: string, found: number): MemformerError {
  return new MemformerError("CONFIG", `generate: ${sentence}`, { details: { found } });
}
