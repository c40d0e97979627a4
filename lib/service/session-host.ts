/**
 * Sessions of one model as a service offers them: made, spoken to, branched, saved and deleted by an id, each client's
 * apart. A turn is committed to the store before its end is told.
 */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import { isMemformerError } from "../errors.ts";
import { Scheduler } from "../generate/scheduler/scheduler.ts";
import { Session } from "../generate/session.ts";
import type { Memformer } from "../model/memformer.ts";
import type {
  CallOptions,
  SessionHostOptions,
  SessionInfo,
  SessionStatus,
  TurnAnswer,
  TurnCall,
} from "./host-types.ts";
import { LiveSessions, type Live } from "./live-sessions.ts";
import { MemoryViews, type MemoryQuery } from "./memory-views.ts";
import type { MemoryPage } from "./memory-page.ts";
import { ServiceMetrics, type Levels } from "./metrics/service-metrics.ts";
import { soleOwner } from "./ownership.ts";
import type { JsonValue, StoredResult } from "./record.ts";
import { RunningTurns } from "./running-turns.ts";
import { ServiceError } from "./service-error.ts";
import { hashOf, keyOf, newId } from "./session-ids.ts";
import type { SessionStore } from "./store.ts";
import { timedStore } from "./timed-store.ts";
import { TurnLimits } from "./turn-limits.ts";
import type { RunTurn, TurnInput, TurnResult, TurnSink } from "./turn-run.ts";

/** The sessions of one model, without HTTP: the plugin's own, or one for another protocol. */
export class SessionHost {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  /** @internal */
  readonly metrics: ServiceMetrics;
  readonly #scheduler: Scheduler;
  readonly #store: SessionStore;
  readonly #live: LiveSessions;
  readonly #limits: TurnLimits;
  readonly #turns: RunningTurns;
  readonly #memories = new MemoryViews();
  readonly #deleted = new Set<string>();
  readonly #ending = new AbortController();
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
    this.#turns = new RunningTurns(this.#scheduler, this.metrics);
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
  async info(client: string, id: string): Promise<SessionStatus> {
    const key = keyOf(client, id),
      describe = (live: Live, busy: boolean): SessionStatus => {
        return { ...infoOf(id, live), state: live.session.resident ? "device" : "host", busy };
      };
    const live = this.#live.peek(key);
    if (live !== undefined) return describe(live, this.#live.claimed(key));
    return this.#live.use(key, async (loaded) => describe(loaded, false));
  }

  /** What the session's memory did, since somebody asked first. Throws ServiceError not_found, owned_elsewhere. */
  async memory(client: string, id: string, query: MemoryQuery): Promise<MemoryPage> {
    const key = keyOf(client, id);
    // A view that is there needs no session: nobody's turn is to find it busy with this.
    const session = this.#live.peek(key)?.session;
    if (session === undefined && !this.#memories.has(key))
      return this.#live.use(key, async (live) => this.#memories.page(key, live.session, { ...query, wait: 0 }));
    return this.#memories.page(key, session, query);
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
      await this.#turns.end(key, new ServiceError("aborted", deletion));
      const existed = await this.#live.claimNext(key, async () => this.#live.delete(key));
      this.#memories.end(key);
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
    { idempotencyKey, request = "" }: TurnCall = {},
  ): Promise<TurnAnswer> {
    const key = keyOf(client, id);
    return this.#placed(client, async () =>
      this.#live.use(key, async (live) => {
        const call = idempotencyKey === undefined ? undefined : { key: idempotencyKey, request: hashOf(request) };
        const earlier = call && live.header.results.find((result) => result.key === call.key);
        if (earlier !== undefined) return this.#replay(id, earlier, call!.request, sink);
        this.#expectOpen();
        if (this.#deleted.has(key)) throw new ServiceError("aborted", deletion);
        const before = live.session.position;
        this.#memories.follow(key, live.session);
        const { result, failure } = await this.#turns.run(key, live.session, input, client, sink);
        const changed = live.session.position !== before || (failure === undefined && call !== undefined);
        if (changed && !this.#deleted.has(key))
          await this.#live.commit(live, call && { ...call, body: JSON.parse(JSON.stringify(result)) as JsonValue });
        if (failure !== undefined) throw failure.error;
        return { id, ...result };
      }),
    );
  }

  /**
   * Work on sessions that no store knows: `count` places for turns, taken at once, so that none of them is refused when
   * others run. `work` is given what runs a turn, and a signal to heed: this host ends.
   */
  async together<T>(
    client: string,
    count: number,
    work: (run: RunTurn, closing: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const run: RunTurn = async (session, input, sink = {}) => {
      const { result, failure } = await this.#turns.run("", session, input, client, sink);
      if (failure !== undefined) throw failure.error;
      return result;
    };
    return this.#placed(client, async () => work(run, this.#ending.signal), count);
  }

  /** Whether new calls are refused. */
  get closing(): boolean {
    return this.#closing;
  }

  /** Seconds since the last step while turns wait for one, and not for their clients; 0 otherwise. */
  get stalled(): number {
    return this.#turns.stalled;
  }

  /**
   * Refuses new calls, lets turns go on for `grace` milliseconds, ends those that still run at what they handed out,
   * commits them, and frees everything but the model.
   */
  async close(grace = 0): Promise<void> {
    this.#closing = true;
    const why = "this server is shutting down; the session holds what was sent";
    const reason = new ServiceError("shutting_down", why, { retryAfter: 1 });
    await this.#turns.drain(grace, reason);
    this.#ending.abort(reason);
    while (this.#limits.count > 0) await new Promise((resolve) => setTimeout(resolve, 5)); // commits
    this.#memories.close();
    await this.#live.close();
    this.#scheduler.dispose();
    this.metrics.close();
  }

  async #placed<T>(client: string, work: () => Promise<T>, count = 1): Promise<T> {
    try {
      this.#expectOpen();
      using place = this.#limits.enter(client, count);
      void place;
      return await work();
    } catch (error) {
      if (error instanceof ServiceError && error.code !== "aborted" && error.code !== "slow_reader")
        this.metrics.requests.add(1, "rejected");
      throw error;
    }
  }

  #replay(id: string, earlier: StoredResult, request: string, sink: TurnSink): TurnAnswer {
    if (earlier.request !== request)
      throw new ServiceError(
        "idempotency_key_reused",
        "this idempotency key was used for another request of this session",
      );
    this.metrics.requests.add(1, "replayed");
    const result = earlier.body as unknown as TurnResult;
    sink.admitted?.(result.position);
    return { id, ...result, replayed: true };
  }

  async #made(
    client: string,
    id: string,
    idempotencyKey: string | undefined,
    make: () => Promise<Session>,
  ): Promise<SessionInfo> {
    const key = keyOf(client, id);
    try {
      return await this.#live.create(key, await make(), (live) => infoOf(id, live));
    } catch (error) {
      const repeated =
        isMemformerError(error) && error.code === "ERR_MEMFORMER_CONFLICT" && idempotencyKey !== undefined;
      if (!repeated) throw error;
      return this.#live.use(key, async (live) => infoOf(id, live));
    }
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

const deletion = "this session was deleted";

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
