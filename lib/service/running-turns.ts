/** The turns under way: started, counted, ended by key or all at once. */
import type { Scheduler } from "../generate/scheduler/scheduler.ts";
import type { Session } from "../generate/session.ts";
import type { Outcome, ServiceMetrics } from "./metrics/service-metrics.ts";
import { asServiceError } from "./service-error.ts";
import { runTurn, type TurnInput, type TurnOutcome, type TurnSink } from "./turn-run.ts";

interface Running {
  readonly key: string;
  readonly abort: AbortController;
  readonly over: Promise<unknown>;
}

export class RunningTurns {
  readonly #scheduler: Scheduler;
  readonly #metrics: ServiceMetrics;
  readonly #running = new Set<Running>();

  constructor(scheduler: Scheduler, metrics: ServiceMetrics) {
    [this.#scheduler, this.#metrics] = [scheduler, metrics];
  }

  /** Runs a turn of a session that is known by `key`. Throws what `scheduler.add` does: then nothing has happened. */
  async run(
    key: string,
    session: Session,
    { signal, ...input }: TurnInput,
    client: string,
    sink: TurnSink,
  ): Promise<TurnOutcome> {
    const abort = new AbortController();
    const stop = signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]);
    const run = runTurn(this.#scheduler, session, { ...input, signal: stop }, client, sink, this.#metrics);
    const running = { key, abort, over: run.catch(() => undefined) };
    this.#running.add(running);
    try {
      const outcome = await run;
      this.#metrics.requests.add(1, labelOf(outcome));
      return outcome;
    } finally {
      this.#running.delete(running);
    }
  }

  /** Ends the turns of a key at what they have handed out, and waits for them. */
  async end(key: string, reason: Error): Promise<void> {
    const turns = [...this.#running].filter((running) => running.key === key);
    for (const { abort } of turns) abort.abort(reason);
    await Promise.all(turns.map(async ({ over }) => over));
  }

  /** Lets turns go on for `grace` milliseconds, then ends those that still run. */
  async drain(grace: number, reason: Error): Promise<void> {
    const over = Promise.all(Array.from(this.#running, async (running) => running.over));
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([over, new Promise((resolve) => (timer = setTimeout(resolve, grace)))]);
    clearTimeout(timer);
    for (const { abort } of this.#running) abort.abort(reason);
    await over;
  }

  /** Seconds since the last step while turns wait for one; 0 otherwise, also while all wait for their clients. */
  get stalled(): number {
    const since = this.#scheduler.busySince;
    return since === undefined ? 0 : (Date.now() - Math.max(this.#metrics.lastStep ?? 0, since)) / 1000;
  }
}

function labelOf({ result: { finish, usage }, failure }: TurnOutcome): Outcome {
  if (failure !== undefined) {
    const { code } = asServiceError(failure.error);
    return code === "internal" || code === "invalid_request" ? "error" : "abort";
  }
  return usage.generated === 0 && finish === "length" ? "read" : finish;
}
