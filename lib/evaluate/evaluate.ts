/** How well a model predicts a text, and what it loses when it reads something else in place of its memory. */
import { z } from "zod";
import type { SegmentStream } from "../data/segment-stream.ts";
import { didYouMean, MemformerError } from "../errors.ts";
import { parseOptions } from "../options.ts";
import type { Group } from "../distributed/group.ts";
import { Meetings } from "../distributed/together.ts";
import type { EvaluatedModel } from "../model/recurrence.ts";
import { cancellable } from "../engine/runtime.ts";
import { ABLATIONS, type Ablation } from "../model/scoring.ts";
import { scoreSegments } from "./score-segments.ts";
import { disposeState, SharedRows, type Ranks, type SharedSegment } from "./shared-rows.ts";
import type { Tensor } from "../engine/tensor.ts";
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
  /**
   * Ranks that share out the lanes: each gives the same weights, stream and options, scores its part, and gets the
   * whole text's result, equal to one process' but for rounding.
   */
  readonly group?: Group | undefined;
}

const schema = z.strictObject({
  bytes: z.number().min(0).optional(),
  ablations: z.array(z.custom<Ablation>(), "must be an array of names").optional(),
  segments: z.number().int().min(0).or(z.literal(Infinity)).optional(),
  segmentsPerStep: z.number().int().min(1).optional(),
  signal: z.custom<AbortSignal>().optional(),
  group: z.custom<Group>().optional(),
});

/** Steps whose losses have not been read: a device has work while the host reads text and losses. */
const AHEAD = 2;

/** Losses of one step on their way from the device. */
interface Pending {
  /** The first of its segments, counted from 0. */
  readonly segment: number;
  /** Whether they are of rows that count here. */
  readonly counted: boolean;
  /** (1 + A, G) mean nats, row by row, and (G) targets scored. */
  readonly numbers: Promise<readonly [ArrayLike<number | bigint>, ArrayLike<number | bigint>]>;
}

/**
 * Reads `stream` to its end, memory carried from segment to segment. Rejects with `signal.reason` when aborted, with
 * MemformerError DATA when no token of it is to be predicted, NAN_LOSS when a loss is not a finite number, CONFIG for
 * an unknown option or ablation. With a group every rank rejects where one does: the others with DISTRIBUTED.
 */
export async function evaluate(
  model: EvaluatedModel,
  stream: SegmentStream,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const given = parseOptions(schema, options, "evaluate") as EvaluateOptions,
    { bytes = NaN, ablations, group } = given;
  const wanted = known(ablations ?? ABLATIONS).filter((name) => name !== "shuffled" || stream.lanes > 1);
  const names = ["whole", ...wanted] as const,
    began = performance.now();
  const { totals, tokens, read } =
    group === undefined
      ? await pass(model, stream, wanted, given, undefined)
      : await sharedPass(model, stream, wanted, given, group);
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
    ablations: Object.fromEntries(names.slice(1).map((name, i) => [name, scores[i + 1]!])),
  };
}

/** What a pass comes to. */
interface Sums {
  /** Nats: with the memory, then with each ablation. */
  readonly totals: readonly number[];
  /** Scored. */
  readonly tokens: number;
  /** Segments. */
  readonly read: number;
}

/** The sums of all ranks' passes, on every rank to the same bits. */
async function sharedPass(
  model: EvaluatedModel,
  stream: SegmentStream,
  wanted: readonly Ablation[],
  options: EvaluateOptions,
  group: Group,
): Promise<Sums> {
  const { lanes, segmentLength } = stream,
    { segments = null } = options;
  await group.agree("what is evaluated", { lanes, segmentLength, position: stream.position(), wanted, segments });
  const meetings = new Meetings(group, "the evaluation");
  try {
    const all = await meetings.meet(await pass(model, stream, wanted, options, { group, meetings }));
    return {
      totals: all[0]!.totals.map((_, i) => all.reduce((sum, { totals }) => sum + totals[i]!, 0)),
      tokens: all.reduce((sum, { tokens }) => sum + tokens, 0),
      read: all[0]!.read,
    };
  } catch (error) {
    throw await meetings.fail(error);
  }
}

/** Scores the rows of this process to the stream's end. */
async function pass(
  model: EvaluatedModel,
  stream: SegmentStream,
  wanted: readonly Ablation[],
  { segments: most = Infinity, segmentsPerStep, signal }: EvaluateOptions,
  ranks: Ranks | undefined,
): Promise<Sums> {
  const names = ["whole", ...wanted] as const,
    totals = names.map(() => 0);
  const rows = new SharedRows(stream, wanted.includes("shuffled"), ranks);
  const pending: Pending[] = [],
    turns = new Turns();
  let tokens = 0,
    read = 0,
    state = rows.start(model);
  const settle = async ({ segment, counted, numbers }: Pending): Promise<void> => {
    const [losses, counts] = await numbers;
    names.forEach((name, i) => {
      for (let g = 0; g < counts.length && counted; g++) {
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
      state = await rows.drop(state);
      const perStep = Math.min(
          rows.neighbour !== undefined ? 1 : (segmentsPerStep ?? scoringSegments(model, rows.count, stream)),
          most - read,
        ),
        segments: SharedSegment[] = [];
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
        const before = state;
        const scored = cancellable(signal, () => scoreSegments(model, segments, before, wanted));
        disposeState(before);
        state = scored.state;
        const numbers = numbersOf(scored.losses, scored.counts);
        numbers.catch(() => undefined); // awaited later: it may have failed by then
        pending.push({ segment: read, counted: rows.counts, numbers });
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
  return { totals, tokens, read };
}

function scoringSegments(model: EvaluatedModel, rows: number, { segmentLength }: SegmentStream): number {
  return model.scoringSegmentsPerStep?.(rows, segmentLength) ?? 1;
}

/** `names` without repetitions. Throws MemformerError CONFIG for one that is not an ablation. */
function known(names: readonly string[]): Ablation[] {
  for (const name of names) {
    if ((ABLATIONS as readonly string[]).includes(name)) continue;
    throw new MemformerError(
      "CONFIG",
      `evaluate: there is no ablation "${name}"${didYouMean(String(name), ABLATIONS)} (known: ${ABLATIONS.join(", ")})`,
      { details: { argument: "ablations", got: name, expected: ABLATIONS } },
    );
  }
  return [...new Set(names)] as Ablation[];
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
