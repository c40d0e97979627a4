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
export type { MemoryFacts, MemoryPage, MemoryRow } from "./memory-page.ts";
export type { MemoryQuery } from "./memory-views.ts";
export type { RunTurn, TurnInput, TurnResult, TurnSink } from "./turn-run.ts";
export { ServiceError, type ErrorBody, type ServiceErrorCode, type ServiceErrorFacts } from "./service-error.ts";
export type { HostRegistry } from "./metrics/registry.ts";
export type { KeyPage, PutOptions, SessionStore, StoredRecord } from "./store.ts";
export type { Held, Ownership } from "./ownership.ts";
export { Leases, type Lease, type LeaseOptions } from "./lease.ts";
export type { BackendOptions } from "./stores/backend.ts";
export { fileStore } from "./stores/files.ts";
export { memoryStore } from "./stores/memory.ts";
export { postgresStore, type PostgresClient, type PostgresStoreOptions } from "./stores/postgres.ts";
export { redisStore, type IoRedisClient, type NodeRedisClient, type RedisStoreOptions } from "./stores/redis.ts";
export { s3Store, type ObjectBody, type S3Client, type S3StoreOptions } from "./stores/s3.ts";
