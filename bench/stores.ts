/**
 * What a turn of a session costs in its store: milliseconds of a put (by compare-and-set) and a get of a record, and of
 * a lease's renewal, one after another and by many clients at once. Memory and files always; servers where they are
 * named.
 *   [--folder FOLDER] [--redis redis://127.0.0.1:6379] [--postgres postgres://127.0.0.1/postgres] [--s3 BUCKET]
 *   [--s3-endpoint URL] [--bytes 1048576] [--rounds 200] [--clients 8]
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileStore } from "../lib/service/stores/files.ts";
import { memoryStore } from "../lib/service/stores/memory.ts";
import { postgresStore } from "../lib/service/stores/postgres.ts";
import { redisStore } from "../lib/service/stores/redis.ts";
import { s3Store } from "../lib/service/stores/s3.ts";
import type { SessionStore } from "../lib/service/store.ts";
import { flag, report, wholeWord, type Row } from "./support/report.ts";

interface Candidate {
  readonly name: string;
  readonly store: SessionStore;
  readonly close: () => Promise<unknown>;
}

async function candidates(flags: readonly string[]): Promise<Candidate[]> {
  const folder = mkdtempSync(join(wholeWord(flags, "folder", tmpdir()), "memformer-bench-")),
    redis = wholeWord(flags, "redis", ""),
    postgres = wholeWord(flags, "postgres", ""),
    bucket = wholeWord(flags, "s3", ""),
    endpoint = wholeWord(flags, "s3-endpoint", "");
  const close = async (): Promise<void> => undefined,
    found: Candidate[] = [
      { name: "memory", store: memoryStore(), close },
      { name: "files", store: fileStore(folder), close: async () => rmSync(folder, { recursive: true }) },
    ];
  if (redis !== "") {
    const client = (await import("@redis/client")).createClient({ url: redis });
    await client.connect();
    found.push({ name: "Redis (node-redis)", store: redisStore(client), close: async () => client.close() });
    const io = new (await import("ioredis")).Redis(redis);
    found.push({ name: "Redis (ioredis)", store: redisStore(io), close: async () => io.quit() });
  }
  if (postgres !== "") {
    const pool = new (await import("pg")).default.Pool({ connectionString: postgres });
    found.push({ name: "PostgreSQL", store: postgresStore(pool), close: async () => pool.end() });
  }
  if (bucket !== "") {
    const { S3 } = await import("@aws-sdk/client-s3"),
      client = new S3(endpoint === "" ? {} : { endpoint, forcePathStyle: true });
    found.push({ name: "S3", store: s3Store(client, { bucket }), close: async () => client.destroy() });
  }
  return found;
}

/** Milliseconds of each of `rounds` calls. */
async function timed(rounds: number, work: () => Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times;
}

/** A writer that goes on from its own latest version. */
function writer(store: SessionStore, key: string, bytes: Uint8Array): () => Promise<void> {
  let version: string | null = null;
  return async () => {
    version = await store.put(key, bytes, { ifVersion: version, ttl: 3600 });
  };
}

function quantile(times: number[], share: number): string {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!.toFixed(2);
}

async function measured({ name, store }: Candidate, bytes: number, rounds: number, clients: number): Promise<Row> {
  const key = `bench-${process.pid}-${Date.now()}`,
    blob = randomBytes(bytes),
    put = writer(store, key, blob),
    small = writer(store, `${key}-lease`, randomBytes(150));
  await timed(Math.ceil(rounds / 10), put); // until the code is compiled and the table is made
  const puts = await timed(rounds, put),
    gets = await timed(rounds, async () => store.get(key)),
    renewals = await timed(rounds, small);
  const keys = Array.from({ length: clients }, (_, i) => `${key}-${i}`),
    each = Math.ceil(rounds / clients),
    start = performance.now();
  await Promise.all(keys.map(async (own) => timed(each, writer(store, own, blob))));
  const perSecond = (clients * each) / ((performance.now() - start) / 1000);
  await Promise.all([key, `${key}-lease`, ...keys].map(async (own) => store.delete(own)));
  return {
    store: name,
    "put p50 ms": quantile(puts, 0.5),
    "put p99 ms": quantile(puts, 0.99),
    "get p50 ms": quantile(gets, 0.5),
    "get p99 ms": quantile(gets, 0.99),
    "renewal p50 ms": quantile(renewals, 0.5),
    [`puts/s of ${clients}`]: Math.round(perSecond),
  };
}

export async function stores(flags: readonly string[]): Promise<boolean> {
  const bytes = flag(flags, "bytes", 1 << 20),
    rounds = flag(flags, "rounds", 200),
    clients = flag(flags, "clients", 8),
    rows: Row[] = [];
  for (const candidate of await candidates(flags)) {
    try {
      rows.push(await measured(candidate, bytes, rounds, clients));
    } finally {
      await candidate.close();
    }
  }
  report("stores", "A session's record in each store", rows, { bytes, rounds, clients });
  return true;
}
