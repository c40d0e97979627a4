/** One turn of one session in the scheduler: its pieces to who takes them, and what there is to say about it. */
import type { GenerateOptions } from "../generate/generate-options.ts";
import type { ReadInput } from "../generate/read-input.ts";
import type { Scheduler } from "../generate/scheduler/scheduler.ts";
import type { Session } from "../generate/session.ts";
import type { FinishReason, GeneratedToken, Piece } from "../generate/turn.ts";
import type { ServiceMetrics } from "./metrics/service-metrics.ts";

/** What a turn reads, then generates. */
export interface TurnInput extends Omit<GenerateOptions, "logitsProcessor"> {
  readonly input?: ReadInput | undefined;
}

/** Who takes the pieces. What it throws, or rejects with, ends the turn at the piece before. */
export interface TurnSink {
  /** The turn has been taken on, at this position: what is refused with a status has been refused. */
  readonly admitted?: ((position: number) => void) | undefined;
  /** Takes a piece; the next is made when it resolves. */
  readonly piece?: ((piece: Piece) => void | Promise<void>) | undefined;
}

/** What a turn made of its session. */
export interface TurnResult {
  readonly text: string;
  readonly tokens: readonly GeneratedToken[];
  /** "abort": it was broken off, and the session holds what was handed out until then. */
  readonly finish: FinishReason | "abort";
  readonly stop?: string;
  /** Of the generation; null where nothing was drawn. */
  readonly seed: number | null;
  readonly position: number;
  readonly usage: { readonly read: number; readonly generated: number };
}

/** Runs a turn of a session that no store knows. */
export type RunTurn = (session: Session, input: TurnInput, sink?: TurnSink) => Promise<TurnResult>;

/** How a turn went. */
export interface TurnOutcome {
  readonly result: TurnResult;
  /** What broke it off. */
  readonly failure?: { readonly error: unknown } | undefined;
}

/** Runs a turn to its end, or to where it breaks. Throws what `scheduler.add` does: then nothing has happened. */
export async function runTurn(
  scheduler: Scheduler,
  session: Session,
  { input, ...options }: TurnInput,
  client: string,
  sink: TurnSink,
  metrics: ServiceMetrics,
): Promise<TurnOutcome> {
  const began = performance.now(),
    { segmentLength } = scheduler.model.config,
    start = segmentsOf(session, segmentLength),
    tokens: GeneratedToken[] = [];
  let text = "",
    last: Piece | undefined,
    before: number | undefined,
    failure: { readonly error: unknown } | undefined;
  const turn = scheduler.add(session, { ...options, input, key: client });
  try {
    sink.admitted?.(session.position);
    for await (const piece of turn) {
      const now = performance.now();
      if (piece.tokens.length > 0) {
        if (before === undefined) metrics.firstToken.observe((now - began) / 1000);
        else metrics.betweenTokens.observe((now - before) / 1000);
        before = now;
      }
      await heeding(options.signal, sink.piece?.(piece));
      text += piece.text;
      tokens.push(...piece.tokens);
      if (piece.finish !== null) last = piece;
    }
  } catch (error) {
    failure = { error };
    scheduler.finish(turn);
  }
  metrics.segments.add(Math.max(0, segmentsOf(session, segmentLength) - start));
  if (turn.waited !== undefined) metrics.queue.observe(turn.waited / 1000);
  const result: TurnResult = {
    text,
    tokens,
    finish: last?.finish ?? "abort",
    ...(last?.stop !== undefined && { stop: last.stop }),
    seed: turn.drawing === undefined ? null : (session.lastSeed ?? null),
    position: session.position,
    usage: { read: turn.tokensRead, generated: last === undefined ? tokens.length : turn.tokensDrawn },
  };
  return { result, failure };
}

/** Segments of a session that have reached its memory. */
function segmentsOf({ position }: Session, segmentLength: number): number {
  return Math.floor(position / segmentLength);
}

/** Waits for who takes a piece, who may not read; rejects with the signal's reason as soon as it aborts. */
async function heeding(signal: AbortSignal | undefined, taken: void | Promise<void>): Promise<void> {
  if (signal === undefined || taken === undefined) return taken;
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => {
      reject(signal.reason as Error);
    };
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
  });
  try {
    await Promise.race([taken, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
