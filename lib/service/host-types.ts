/** What a {@link SessionHost} takes and gives. */
import type { Tokenizer } from "../data/tokenizers/tokenizer.ts";
import type { SchedulerOptions } from "../generate/scheduler/scheduler-options.ts";
import type { Memformer } from "../model/memformer.ts";
import type { Ownership } from "./ownership.ts";
import type { SessionStore } from "./store.ts";
import type { TurnResult } from "./turn-run.ts";

/** What a {@link SessionHost} works with. */
export interface SessionHostOptions {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  readonly store: SessionStore;
  /** Default: this process has its store alone. */
  readonly ownership?: Ownership | undefined;
  /** Places, budget and policy of its scheduler. */
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

/** A session, and where it is. */
export interface SessionStatus extends SessionInfo {
  readonly state: "device" | "host";
  readonly busy: boolean;
}

/** Of a call that changes a session. */
export interface CallOptions {
  /** The same call again gets the same answer, and changes nothing. */
  readonly idempotencyKey?: string | undefined;
}

/** Of a turn. */
export interface TurnCall extends CallOptions {
  /** The request as text: a call with the same key must be the same. */
  readonly request?: string | undefined;
}

/** A turn's answer. */
export interface TurnAnswer extends TurnResult {
  readonly id: string;
  /** It is the answer of an earlier call with this key; this one changed nothing. */
  readonly replayed?: true;
}
