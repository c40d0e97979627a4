/**
 * Sessions of one model as a service offers them: made, spoken to, branched, saved and deleted by an id, each client's
 * apart. A turn is committed to the store before its end is told.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { isMemformerError } from "../errors.ts";
import { Scheduler } from "../generate/scheduler/scheduler.ts";
import type { SchedulerOptions } from "../generate/scheduler/scheduler-options.ts";
import { Session } from "../generate/session.ts";
import type { Memformer } from "../model/memformer.ts";
import { LiveSessions, type Live } from "./live-sessions.ts";
import { ServiceMetrics, type Levels, type Outcome } from "./metrics/service-metrics.ts";
import type { JsonValue } from "./record.ts";
import { soleOwner, type Ownership } from "./ownership.ts";
import { asServiceError, ServiceError } from "./service-error.ts";
import type { SessionStore } from "./store.ts";
import { timedStore } from "./timed-store.ts";
import { TurnLimits } from "./turn-limits.ts";
import { runTurn, type TurnInput, type TurnOutcome, type TurnResult, type TurnSink } from "./turn-run.ts";

/** What a {@link SessionHost} works with. */
export interface SessionHostOptions {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  readonly store: SessionStore;
  /** Default: this process has its store alone. */
  readonly ownership?: Ownership | undefined;
  readonly scheduler?: Omit<SchedulerOptions, "drive" | "onStep"> | undefined;
  /** Turns at once, those that wait included. Default 256. */
  readonly maxTurns?: number | undefined;
  /** The same of one client. Default: as many. */
  readonly turnsPerClient?: number | undefined;
  /** Sessions without a call that stay in memory. Default 1024. */
  readonly liveSessions?: number | undefined;
  /** Milliseconds until a session without a call leaves memory. Default 60,000. */
  readonly idleAfter?: number | undefined;
  /** Seconds that a session is kept after its last turn. Default: for ever. */
  readonly sessionTtl?: number | undefined;
}

/** A session, as a client sees it. */
export interface SessionInfo {
  readonly id: string;
  readonly position: number;
  /** Tokens that have not reached the memory yet. */
  readonly pending: number;
  readonly bytes: number;
  readonly created: string;
  readonly updated: string;
}

/** Of a call that changes a session. */
export interface CallOptions {
  /** The same call again gets the same answer, and changes nothing. */
  readonly idempotencyKey?: string | undefined;
}

/** A turn's answer. */
export interface TurnAnswer extends TurnResult {
  readonly id: string;
  /** It is the answer of an earlier call with this key; this one changed nothing. */
  readonly replayed?: true;
}

interface Running {
  readonly key: string;
  readonly abort: AbortController;
  /** Milliseconds since 1970. */
  readonly began: number;
  readonly over: Promise<unknown>;
}

export class SessionHost {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  readonly metrics: ServiceMetrics;
  readonly #scheduler: Scheduler;
  readonly #store: SessionStore;
  readonly #live: LiveSessions;
  readonly #limits: TurnLimits;
  readonly #running = new Set<Running>();
  readonly #deleted = new Set<string>();
  #closing = false;

  constructor(options: SessionHostOptions) {
    const { model, tokenizer, ownership = soleOwner, maxTurns = 256, turnsPerClient = maxTurns } = options;
    const { liveSessions: limit = 1024, idleAfter = 60_000, sessionTtl: ttl } = options;
    [this.model, this.tokenizer] = [model, tokenizer];
    this.metrics = new ServiceMetrics(() => this.#levels());
    this.#store = timedStore(options.store, this.metrics);
    this.#scheduler = new Scheduler(model, {
      maxWaiting: maxTurns,
      ...options.scheduler,
      onStep: (step) => {
        this.metrics.step(step);
      },
    });
    const restore = async (bytes: Uint8Array): Promise<Session> => Session.restore(model, bytes, tokenizer);
    this.#live = new LiveSessions({ store: this.#store, ownership, restore, limit, idleAfter, ttl });
    this.#limits = new TurnLimits(maxTurns, turnsPerClient);
  }

  /** A session at the start of a document, or where `saved` says. Throws ServiceError invalid_session. */
  async create(client: string, saved?: Uint8Array, { idempotencyKey }: CallOptions = {}): Promise<SessionInfo> {
    this.#expectOpen();
    const id = newId("create", client, idempotencyKey);
    return this.#made(client, id, idempotencyKey, async () =>
      saved === undefined
        ? Session.open(this.model, this.tokenizer)
        : Session.restore(this.model, saved, this.tokenizer),
    );
  }

  /** A second session at the same place. */
  async branch(client: string, id: string, { idempotencyKey }: CallOptions = {}): Promise<SessionInfo> {
    this.#expectOpen();
    const branch = newId(`branch ${id}`, client, idempotencyKey);
    return this.#live.use(keyOf(client, id), async ({ session }) =>
      this.#made(client, branch, idempotencyKey, async () => session.clone()),
    );
  }

  /** Throws ServiceError not_found, owned_elsewhere. */
  async info(client: string, id: string): Promise<SessionInfo & { readonly state: "device" | "host"; busy: boolean }> {
    const key = keyOf(client, id),
      describe = (live: Live, busy: boolean) =>
        ({ ...infoOf(id, live), state: live.session.resident ? "device" : "host", busy }) as const;
    const live = this.#live.peek(key);
    if (live !== undefined) return describe(live, this.#live.claimed(key));
    return this.#live.use(key, async (loaded) => describe(loaded, false));
  }

  /** Ids of a client's sessions, in the store's order. */
  async list(client: string, cursor?: string): Promise<{ ids: string[]; cursor?: string | undefined }> {
    const prefix = keyOf(client, ""),
      { keys, cursor: next } = await this.#store.list(prefix, cursor === undefined ? {} : { cursor });
    return { ids: keys.map((key) => key.slice(prefix.length)), cursor: next };
  }

  /** What `Session.restore` and {@link create} take. */
  async save(client: string, id: string): Promise<Uint8Array> {
    return this.#live.use(keyOf(client, id), async ({ session }) => session.save());
  }

  /** Ends its turn, if it has one, and forgets it. Throws ServiceError not_found. */
  async delete(client: string, id: string): Promise<void> {
    const key = keyOf(client, id);
    this.#deleted.add(key);
    try {
      for (const running of this.#running) {
        if (running.key !== key) continue;
        running.abort.abort(new ServiceError("aborted", "this session was deleted"));
        await running.over;
      }
      const existed = await this.#live.claim(key, async () => this.#live.delete(key));
      if (!existed) throw new ServiceError("not_found", "there is no such session");
    } finally {
      this.#deleted.delete(key);
    }
  }

  /**
   * Reads and generates, and commits what the client was handed: all of it, or of a turn that is broken off what was
   * handed out until then; with `onAbort: "discard"` nothing of that. Rejects with ServiceError, or with what broke the
   * turn off; `sink.admitted` has not been called where nothing has happened.
   */
  async turn(
    client: string,
    id: string,
    input: TurnInput,
    sink: TurnSink = {},
    { idempotencyKey, request = "" }: CallOptions & { readonly request?: string } = {},
  ): Promise<TurnAnswer> {
    const key = keyOf(client, id);
    return this.#placed(client, async () =>
      this.#live.use(key, async (live) => {
        const call = idempotencyKey === undefined ? undefined : { key: idempotencyKey, request: hashOf(request) };
        const earlier = call && live.header.results.find((result) => result.key === call.key);
        if (earlier !== undefined) return this.#replay(id, earlier, call!.request, sink);
        const before = live.session.position;
        const { result, failure } = await this.#run(key, live.session, input, client, sink);
        const changed = live.session.position !== before || (failure === undefined && call !== undefined);
        if (changed && !this.#deleted.has(key))
          await this.#live.commit(live, call && { ...call, body: JSON.parse(JSON.stringify(result)) as JsonValue });
        if (failure !== undefined) throw failure.error;
        return { id, ...result };
      }),
    );
  }

  /** A turn of a session that no store knows. */
  async turnOf(client: string, session: Session, input: TurnInput, sink: TurnSink = {}): Promise<TurnResult> {
    return this.#placed(client, async () => {
      const { result, failure } = await this.#run("", session, input, client, sink);
      if (failure !== undefined) throw failure.error;
      return result;
    });
  }

  /** Whether new calls are refused. */
  get closing(): boolean {
    return this.#closing;
  }

  /** Seconds since the last step while turns wait for one; 0 otherwise. */
  get stalled(): number {
    if (this.#running.size === 0) return 0;
    const oldest = Math.min(...Array.from(this.#running, ({ began }) => began));
    return (Date.now() - Math.max(this.metrics.lastStep ?? 0, oldest)) / 1000;
  }

  /**
   * Refuses new calls, lets turns go on for `grace` milliseconds, ends those that still run at what they handed out,
   * commits them, and frees everything but the model.
   */
  async close(grace = 0): Promise<void> {
    this.#closing = true;
    const over = Promise.allSettled(Array.from(this.#running, (running) => running.over));
    await Promise.race([over, new Promise((resolve) => setTimeout(resolve, grace).unref())]);
    for (const { abort } of this.#running)
      abort.abort(
        new ServiceError("shutting_down", "this server is shutting down; the session holds what was sent", {
          retryAfter: 1,
        }),
      );
    await over;
    while (this.#limits.count > 0) await new Promise((resolve) => setTimeout(resolve, 5)); // commits
    await this.#live.close();
    this.#scheduler.dispose();
    this.metrics.close();
  }

  async #placed<T>(client: string, work: () => Promise<T>): Promise<T> {
    try {
      this.#expectOpen();
      using place = this.#limits.enter(client);
      void place;
      return await work();
    } catch (error) {
      if (error instanceof ServiceError && error.code !== "aborted" && error.code !== "slow_reader")
        this.metrics.requests.add(1, "rejected");
      throw error;
    }
  }

  async #run(
    key: string,
    session: Session,
    { signal, ...input }: TurnInput,
    client: string,
    sink: TurnSink,
  ): Promise<TurnOutcome> {
    const abort = new AbortController();
    const stop = signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]);
    const run = runTurn(this.#scheduler, session, { ...input, signal: stop }, client, sink, this.metrics);
    const running = { key, abort, began: Date.now(), over: run.catch(() => undefined) };
    this.#running.add(running);
    try {
      const outcome = await run;
      this.metrics.requests.add(1, outcomeOf(outcome));
      return outcome;
    } finally {
      this.#running.delete(running);
    }
  }

  #replay(id: string, earlier: { request: string; body: unknown }, request: string, sink: TurnSink): TurnAnswer {
    if (earlier.request !== request)
      throw new ServiceError(
        "idempotency_key_reused",
        "this idempotency key was used for another request of this session",
      );
    this.metrics.requests.add(1, "replayed");
    sink.admitted?.();
    return { id, ...(earlier.body as TurnResult), replayed: true };
  }

  async #made(
    client: string,
    id: string,
    idempotencyKey: string | undefined,
    make: () => Promise<Session>,
  ): Promise<SessionInfo> {
    const key = keyOf(client, id);
    try {
      await this.#live.create(key, await make());
    } catch (error) {
      const repeated =
        isMemformerError(error) && error.code === "ERR_MEMFORMER_CONFLICT" && idempotencyKey !== undefined;
      if (!repeated) throw error;
      return this.#live.use(key, async (live) => infoOf(id, live));
    }
    return infoOf(id, this.#live.peek(key)!);
  }

  #expectOpen(): void {
    if (this.#closing) throw new ServiceError("shutting_down", "this server is shutting down", { retryAfter: 5 });
  }

  #levels(): Levels {
    const levels = { device: { count: 0, bytes: 0 }, host: { count: 0, bytes: 0 } };
    for (const { session } of this.#live.all) {
      const level = levels[session.resident ? "device" : "host"];
      level.count += 1;
      level.bytes += session.bytes;
    }
    const { active, waiting, moves } = this.#scheduler.report;
    return { ...levels, running: active, waiting, moves };
  }
}

/** The store's key of a client's session; 64 characters at most. */
function keyOf(client: string, id: string): string {
  return `session.${client}.${id}`;
}

/** Unguessable; with an idempotency key the same for the same call. */
function newId(call: string, client: string, idempotencyKey: string | undefined): string {
  if (idempotencyKey === undefined) return randomBytes(16).toString("base64url");
  return createHash("sha256")
    .update(JSON.stringify([call, client, idempotencyKey]))
    .digest()
    .subarray(0, 16)
    .toString("base64url");
}

function hashOf(request: string): string {
  return createHash("sha256").update(request).digest("hex");
}

function infoOf(id: string, { session, header }: Live): SessionInfo {
  return {
    id,
    position: session.position,
    pending: session.pending,
    bytes: session.bytes,
    created: new Date(header.created).toISOString(),
    updated: new Date(header.updated).toISOString(),
  };
}

function outcomeOf({ result: { finish, usage }, failure }: TurnOutcome): Outcome {
  if (failure !== undefined) {
    const { code } = asServiceError(failure.error);
    return code === "internal" || code === "invalid_request" ? "error" : "abort";
  }
  return usage.generated === 0 && finish === "length" ? "read" : finish;
}
