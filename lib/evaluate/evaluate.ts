/** How well a model predicts a text, and what it loses when it reads something else in place of its memory. */
import { z } from "zod";
import type { SegmentStream } from "../data/segment-stream.ts";
import { MemformerError, nearest } from "../errors.ts";
import { parseOptions } from "../options.ts";
import type { EvaluatedModel, State } from "../model/recurrence.ts";
import { cancellable } from "../engine/runtime.ts";
import { ABLATIONS, type Ablation, type Scored, type ScoringState } from "../model/scoring.ts";
import { composedScore } from "./composed-score.ts";
import { LiveRows } from "./live-rows.ts";
import { disposeSegment } from "../model/segment-tensors.ts";
import type { Segment } from "../data/segment.ts";
import { applyOperator, tidy, type Tensor } from "../engine/tensor.ts";
import { Turns } from "../engine/turns.ts";

export { ABLATIONS, type Ablation } from "../model/scoring.ts";

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
  /**
   * The same text scored by the same weights with something else in place of the memory, see {@link Ablation}. What an
   * ablation costs is how far the model depends on its memory, not what the memory is worth: only a twin trained
   * without memory measures that.
   */
  readonly ablations: Partial<Record<Ablation, Score>>;
}

/** What to read, for how long, and which ablations to take. */
export interface EvaluateOptions {
  /** Bytes of the evaluated text, for bits per byte. */
  readonly bytes?: number | undefined;
  /** Default: all four; "shuffled" needs at least two lanes and is left out with one. */
  readonly ablations?: readonly Ablation[] | undefined;
  /** Stop after so many segments. Default: at the stream's end. */
  readonly segments?: number | undefined;
  /**
   * Consecutive segments scored by one step. Default: on a CPU 1, on a GPU as many as keep it busy and fit its memory.
   */
  readonly segmentsPerStep?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const schema = z.strictObject({
  bytes: z.number().min(0).optional(),
  ablations: z.array(z.custom<Ablation>(), "must be an array of names").optional(),
  segments: z.number().int().min(0).or(z.literal(Infinity)).optional(),
  segmentsPerStep: z.number().int().min(1).optional(),
  signal: z.custom<AbortSignal>().optional(),
});

/** Steps whose losses have not been read: a device has work while the host reads text and losses. */
const AHEAD = 2;

/** Losses of one step on their way from the device. */
interface Pending {
  /** The first of its segments, counted from 0. */
  readonly segment: number;
  /** (1 + A, G) mean nats, row by row, and (G) targets scored. */
  readonly numbers: Promise<readonly [ArrayLike<number | bigint>, ArrayLike<number | bigint>]>;
}

/**
 * Reads `stream` to its end, memory carried from segment to segment. Rejects with `signal.reason` when aborted, with
 * MemformerError DATA when no token of it is to be predicted, NAN_LOSS when a loss is not a finite number, CONFIG for
 * an unknown option or ablation.
 */
export async function evaluate(
  model: EvaluatedModel,
  stream: SegmentStream,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const {
    bytes = NaN,
    segments: most = Infinity,
    segmentsPerStep,
    signal,
    ablations,
  } = parseOptions(schema, options, "evaluate") as EvaluateOptions;
  const wanted = known(ablations ?? ABLATIONS).filter((name) => name !== "shuffled" || stream.lanes > 1);
  const names = ["whole", ...wanted] as const,
    totals = names.map(() => 0);
  const began = performance.now(),
    rows = new LiveRows(stream, wanted.includes("shuffled") ? 2 : 1);
  const pending: Pending[] = [],
    turns = new Turns();
  let tokens = 0,
    read = 0,
    state: ScoringState = { memory: model.initialState(stream.lanes), held: [] };
  const settle = async ({ segment, numbers }: Pending): Promise<void> => {
    const [losses, counts] = await numbers;
    names.forEach((name, i) => {
      for (let g = 0; g < counts.length; g++) {
        const loss = Number(losses[i * counts.length + g]),
          count = Number(counts[g]);
        if (!Number.isFinite(loss)) throw notFinite(name, segment + g, loss);
        totals[i]! += loss * count;
        if (i === 0) tokens += count;
      }
    });
  };
  try {
    for (let over = false; !over;) {
      const kept = rows.drop();
      if (kept !== undefined) state = narrowed(state, kept);
      const perStep = Math.min(
          segmentsPerStep ?? model.scoringSegmentsPerStep?.(rows.count, stream.segmentLength) ?? 1,
          most - read,
        ),
        segments: Segment[] = [];
      // Rows are dropped between steps: one ends where some are to be, so that scores do not depend on its length.
      while (segments.length < perStep && (segments.length === 0 || !rows.due())) {
        await turns.take();
        const segment = await stream.next();
        over = segment === undefined;
        if (segment === undefined) break;
        segments.push(rows.of(segment));
      }
      over ||= segments.length === 0;
      if (segments.length > 0) {
        const {
          losses,
          counts,
          state: next,
        } = cancellable(signal, () => scoreSegments(model, segments, state, wanted));
        disposeState(state);
        state = next;
        const numbers = numbersOf(losses, counts);
        numbers.catch(() => undefined); // awaited later: it may have failed by then
        pending.push({ segment: read, numbers });
        read += segments.length;
      }
      while (pending.length > (over ? 0 : AHEAD)) await settle(pending.shift()!);
    }
  } catch (error) {
    throw signal?.aborted === true ? signal.reason : error;
  } finally {
    disposeState(state);
    await Promise.allSettled(pending.map(({ numbers }) => numbers));
  }
  if (tokens === 0) {
    throw new MemformerError(
      "DATA",
      `there is nothing to score: ${read} segment(s) were read, and none has a token to predict`,
      { details: { segments: read } },
    );
  }
  const scores = totals.map((nats): Score => {
    const bits = nats / Math.LN2;
    return { nats, perplexity: Math.exp(nats / tokens), bitsPerToken: bits / tokens, bitsPerByte: bits / bytes };
  });
  return {
    ...scores[0]!,
    tokens,
    seconds: (performance.now() - began) / 1000,
    ablations: Object.fromEntries(wanted.map((name, i) => [name, scores[i + 1]!])),
  };
}

/** `names` without repetitions. Throws MemformerError CONFIG for one that is not an ablation. */
function known(names: readonly string[]): Ablation[] {
  for (const name of names) {
    if ((ABLATIONS as readonly string[]).includes(name)) continue;
    const meant = nearest(String(name), ABLATIONS);
    throw new MemformerError(
      "CONFIG",
      `evaluate: there is no ablation "${name}"${meant === undefined ? "" : `; did you mean "${meant}"?`}; known: ${ABLATIONS.join(", ")}`,
      { details: { argument: "ablations", got: name, expected: ABLATIONS } },
    );
  }
  return [...new Set(names)] as Ablation[];
}

function scoreSegments(
  model: EvaluatedModel,
  segments: readonly Segment[],
  state: ScoringState,
  ablations: readonly Ablation[],
): Scored {
  return tidy(() => {
    const given = segments.map((segment) => model.upload(segment));
    const made = model.score?.(given, state, ablations) ?? composedScore(model, given, state, ablations);
    for (const segment of given) disposeSegment(segment);
    return made;
  });
}

/** The numbers of both, which are freed once they have been read. */
async function numbersOf(losses: Tensor, counts: Tensor): Pending["numbers"] {
  const numbers = Promise.all([losses.data(), counts.data()]);
  losses.dispose();
  counts.dispose();
  return numbers;
}

function notFinite(memory: string, segment: number, loss: number): MemformerError {
  const where = memory === "whole" ? "" : ` with the memory ${memory}`;
  return new MemformerError(
    "NAN_LOSS",
    `evaluate: the loss of segment ${segment}${where} is ${loss}; the model's weights may not be finite`,
    { details: { memory, segment, loss } },
  );
}

/** The state of these rows alone; the whole one is freed. */
function narrowed(state: ScoringState, rows: readonly number[]): ScoringState {
  const only = (tensors: State): State =>
    tensors.map((tensor) =>
      applyOperator(
        "aten::cat",
        rows.map((row) => applyOperator("aten::narrow", tensor, 0, row, 1)),
        0,
      ),
    );
  const kept = tidy(() => ({ memory: only(state.memory), held: only(state.held) }));
  disposeState(state);
  return kept;
}

function disposeState({ memory, held }: ScoringState): void {
  for (const tensor of [...memory, ...held]) tensor.dispose();
}
