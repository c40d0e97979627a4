/** `memformer/service`: sessions over HTTP, as a plugin of Fastify 5. */
export { memformerService } from "./plugin.ts";
export type { ServiceOptions } from "./service-options.ts";
export { SessionHost } from "./session-host.ts";
export type {
  CallOptions,
  SessionHostOptions,
  SessionInfo,
  SessionStatus,
  TurnAnswer,
  TurnCall,
} from "./host-types.ts";
export type { TurnInput, TurnResult, TurnSink } from "./turn-run.ts";
export { ServiceError, type ServiceErrorCode } from "./service-error.ts";
export type { KeyPage, PutOptions, SessionStore, StoredRecord } from "./store.ts";
export type { Held, Ownership } from "./ownership.ts";
export { Leases, type Lease, type LeaseOptions } from "./lease.ts";
export { fileStore } from "./stores/files.ts";
export { memoryStore } from "./stores/memory.ts";
export { postgresStore } from "./stores/postgres.ts";
export { redisStore } from "./stores/redis.ts";
export { s3Store } from "./stores/s3.ts";
