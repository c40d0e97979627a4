/** How well a model predicts a text, and whether its memory has a part in it. */
import type { SegmentStream } from "./data/segment-stream.ts";
import { MemformerError } from "./errors.ts";
import type { Memformer } from "./model.ts";
import type { State } from "./recurrence.ts";
import { cancellable } from "./runtime.ts";
import { disposeSegment, type SegmentTensors } from "./segment-tensors.ts";
import { apply, tidy, type Tensor } from "./tensor.ts";

/** What is done to the memory before each segment reads it. */
export type Ablation = "zeroed" | "shuffled" | "frozen";
const ablations: readonly Ablation[] = ["zeroed", "shuffled", "frozen"];

/** How well a text is predicted. */
export interface Score {
  /** Total negative log-likelihood, nats. */
  readonly nats: number;
  /** exp(nats / token). Of tokens of this tokenizer: compare only with models that share it. */
  readonly perplexity: number;
  readonly bitsPerToken: number;
  /** Total bits / bytes of the text; NaN when its bytes are not known. */
  readonly bitsPerByte: number;
}

/** The score of a text, and where asked for the scores with the memory ablated. */
export interface Evaluation extends Score {
  readonly tokens: number;
  readonly seconds: number;
  /** The same with the memory zeroed, taken from the neighbouring row of the batch, or kept as it was after each document's first segment. */
  readonly ablations: Partial<Record<Ablation, Score>>;
}

/** What to read, for how long, and which ablations to take. */
export interface EvaluateOptions {
  /** Bytes of the evaluated text, for bits per byte. */
  readonly bytes?: number | undefined;
  /** Default: all three; "shuffled" needs at least two lanes and is left out with one. */
  readonly ablations?: readonly Ablation[];
  /** Stop after so many segments. Default: at the stream's end. */
  readonly segments?: number;
  readonly signal?: AbortSignal;
}

/**
 * Reads `stream` to its end, memory carried from segment to segment. Rejects with `signal.reason` when aborted, with MemformerError
 * DATA when no token of it is to be predicted.
 */
export async function evaluate(model: Memformer, stream: SegmentStream, options: EvaluateOptions = {}): Promise<Evaluation> {
  const wanted = (options.ablations ?? ablations).filter((name) => name !== "shuffled" || stream.lanes > 1);
  const began = performance.now();
  const nats = new Map<Ablation | "whole", number>([["whole", 0], ...wanted.map((name) => [name, 0] as const)]);
  let tokens = 0, read = 0, state = model.initialState(stream.lanes), frozen: State = state.map((tensor) => tensor.detach());
  try {
    for (; read < (options.segments ?? Infinity); read++) {
      const segment = await stream.next();
      if (segment === undefined) break;
      const made = cancellable(options.signal, () => tidy(() => scoreSegment(model, model.upload(segment), state, frozen, wanted)));
      for (const tensor of [...state, ...frozen]) tensor.dispose();
      ({ state, frozen } = made);
      const [losses, count] = await Promise.all([made.losses.data(), made.count.item()]);
      made.losses.dispose();
      made.count.dispose();
      [...nats.keys()].forEach((name, i) => nats.set(name, nats.get(name)! + Number(losses[i]) * count));
      tokens += count;
    }
  } catch (error) {
    throw options.signal?.aborted === true ? options.signal.reason : error;
  } finally {
    for (const tensor of [...state, ...frozen]) tensor.dispose();
  }
  if (tokens === 0) {
    throw new MemformerError("DATA", `there is nothing to score: ${read} segment(s) were read, without a token to be predicted`, { details: { segments: read } });
  }
  const score = (name: Ablation | "whole"): Score => {
    const total = nats.get(name)!, bits = total / Math.LN2;
    return { nats: total, perplexity: Math.exp(total / tokens), bitsPerToken: bits / tokens, bitsPerByte: bits / (options.bytes ?? NaN) };
  };
  return {
    ...score("whole"), tokens, seconds: (performance.now() - began) / 1000,
    ablations: Object.fromEntries(wanted.map((name) => [name, score(name)])),
  };
}

function scoreSegment(model: Memformer, segment: SegmentTensors, state: State, frozen: State, wanted: readonly Ablation[]):
  { losses: Tensor; count: Tensor; state: State; frozen: State } {
  const whole = model.forward(segment, state);
  const losses = [whole.loss, ...wanted.map((name) => {
    switch (name) {
      // Zeroed everywhere: also where the model itself would put its learned initial memory.
      case "zeroed": return model.forward({ ...segment, reset: apply("aten::zeros_like", segment.reset) }, state.map((tensor) => apply("aten::zeros_like", tensor))).loss;
      case "shuffled": return model.forward(segment, state.map((tensor) => apply("aten::roll", tensor, [1], [0]))).loss;
      case "frozen": return model.forward(segment, frozen).loss;
    }
  })];
  const starts = apply("aten::view", segment.reset, [segment.batch, 1, 1]);
  const kept = whole.state.map((tensor, i) => apply("aten::where.self", starts, tensor, frozen[i]!));
  const result = { losses: apply("aten::stack", losses), count: whole.count, state: whole.state, frozen: kept };
  disposeSegment(segment);
  return result;
}
