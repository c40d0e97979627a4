/** What a request is answered when it is refused or fails: a status, a sentence, and whether to try again. */
import { isMemformerError } from "../errors.ts";

/** Stable codes of refusals; messages may change, codes do not. docs/service.md says when each comes. */
export type ServiceErrorCode =
  | "aborted"
  | "busy"
  | "conflict"
  | "idempotency_key_reused"
  | "internal"
  | "invalid_request"
  | "invalid_session"
  | "model_not_found"
  | "not_found"
  | "overloaded"
  | "owned_elsewhere"
  | "rate_limited"
  | "shutting_down"
  | "slow_reader"
  | "store_unavailable"
  | "too_large"
  | "unauthorized";

const statuses: Readonly<Record<ServiceErrorCode, number>> = {
  aborted: 499,
  busy: 409,
  conflict: 409,
  idempotency_key_reused: 422,
  internal: 500,
  invalid_request: 400,
  invalid_session: 422,
  model_not_found: 404,
  not_found: 404,
  overloaded: 503,
  owned_elsewhere: 409,
  rate_limited: 429,
  shutting_down: 503,
  slow_reader: 408,
  store_unavailable: 503,
  too_large: 413,
  unauthorized: 401,
};

/** What a {@link ServiceError} may say beside its sentence. */
export interface ServiceErrorFacts {
  /** The field of the request that is wrong. */
  readonly param?: string | undefined;
  /** Seconds after which to try again: sent as `Retry-After`. */
  readonly retryAfter?: number | undefined;
  /** Where the session is: sent as `Memformer-Owner`. */
  readonly owner?: string | undefined;
  readonly cause?: unknown;
}

/** A refusal, or a failure that is told: a code, a sentence, and what to do about it. */
export class ServiceError extends Error {
  override readonly name = "ServiceError";
  readonly code: ServiceErrorCode;
  readonly statusCode: number;
  readonly facts: ServiceErrorFacts;

  constructor(code: ServiceErrorCode, message: string, facts: ServiceErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = code;
    this.statusCode = statuses[code];
    this.facts = facts;
  }

  /** What is sent: the form that OpenAI's clients read. */
  get body(): ErrorBody {
    const { message, code } = this;
    return { error: { message, type: typeOf(this.statusCode), param: this.facts.param ?? null, code } };
  }

  /**
   * Headers beside it. Clients repeat 409 and 5xx by themselves; only where nothing can have been committed may they.
   */
  get headers(): Record<string, string> {
    const { retryAfter, owner } = this.facts,
      repeat = this.code === "overloaded" || this.code === "rate_limited" || this.code === "shutting_down";
    return {
      "x-should-retry": String(repeat),
      ...(retryAfter !== undefined && { "retry-after": String(Math.max(1, Math.ceil(retryAfter))) }),
      ...(owner !== undefined && { "memformer-owner": owner }),
    };
  }
}

/** The body of every refusal. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string;
  };
}

/** Any failure as an answer. What is not ours is "internal": its text stays in the log. */
export function asServiceError(error: unknown): ServiceError {
  if (error instanceof ServiceError) return error;
  if (!isMemformerError(error))
    return new ServiceError("internal", "the server failed; its log has more", { cause: error });
  const code = codes[error.code.slice("ERR_MEMFORMER_".length)] ?? "internal";
  if (code === "internal") return new ServiceError(code, "the server failed; its log has more", { cause: error });
  return new ServiceError(code, error.message, { cause: error, ...(statuses[code] === 503 && { retryAfter: 1 }) });
}

const codes: Readonly<Record<string, ServiceErrorCode>> = {
  ABORTED: "aborted",
  BUSY: "overloaded", // the scheduler's queue; a session that has a turn is refused before
  CHECKPOINT_FORMAT: "invalid_session",
  CHECKPOINT_MISMATCH: "invalid_session",
  CHECKPOINT_VERSION: "invalid_session",
  CONFIG: "invalid_request",
  CONFLICT: "conflict",
  DATA: "invalid_request",
  IO: "store_unavailable",
  TOKEN_RANGE: "invalid_request",
};

function typeOf(status: number): string {
  switch (status) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}
