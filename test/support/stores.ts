/**
 * The stores that the contract is tried on, each with its server: real ones of Debian (redis-server, PostgreSQL), which
 * a test starts in a folder of its own and ends by id. What a process needs to open the same store is a plain object,
 * so that other processes can.
 */
import { createClient } from "@redis/client";
import { S3 } from "@aws-sdk/client-s3";
import { Redis } from "ioredis";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import type { SessionStore } from "../../lib/service/store.ts";
import { fileStore } from "../../lib/service/stores/files.ts";
import { memoryStore } from "../../lib/service/stores/memory.ts";
import { postgresStore } from "../../lib/service/stores/postgres.ts";
import { redisStore } from "../../lib/service/stores/redis.ts";
import { s3Store } from "../../lib/service/stores/s3.ts";
import { s3Config, startS3, type S3Server } from "./s3-server.ts";

/** How a process opens a store. */
export type StorePlace =
  | { readonly kind: "memory" }
  | { readonly kind: "files"; readonly folder: string }
  | { readonly kind: "node-redis" | "ioredis"; readonly socket: string }
  | { readonly kind: "postgres"; readonly socket: string }
  | { readonly kind: "s3"; readonly endpoint: string | undefined; readonly bucket: string; readonly prefix: string };

export interface OpenedStore {
  readonly store: SessionStore;
  /** Ends the client. */
  readonly close: () => Promise<void>;
}

/** Seconds that a store of a test waits for its server. */
const TIMEOUT = 5;

/** Opens it; `timeout`: seconds that the store waits for its server. */
export async function openStore(place: StorePlace, timeout = TIMEOUT): Promise<OpenedStore> {
  switch (place.kind) {
    case "memory":
      return { store: memoryStore(), close: async () => undefined };
    case "files":
      return { store: fileStore(place.folder), close: async () => undefined };
    case "node-redis": {
      const client = createClient({ socket: { path: place.socket, tls: false } });
      client.on("error", () => undefined); // each call has its own
      await client.connect();
      return { store: redisStore(client, { timeout }), close: async () => client.destroy() };
    }
    case "ioredis": {
      const client = new Redis(place.socket);
      client.on("error", () => undefined);
      return { store: redisStore(client, { timeout }), close: async () => client.disconnect() };
    }
    case "postgres": {
      const pool = new pg.Pool({ host: place.socket, user: "memformer", database: "postgres", max: 8 });
      pool.on("error", () => undefined);
      return { store: postgresStore(pool, { timeout }), close: async () => pool.end() };
    }
    case "s3": {
      const client = new S3(place.endpoint === undefined ? {} : s3Config(place.endpoint));
      const { bucket, prefix } = place;
      return { store: s3Store(client, { bucket, prefix, timeout }), close: async () => client.destroy() };
    }
  }
}

/** A store's server, or what stands for one. */
export interface Served {
  readonly place: StorePlace;
  /** Ends the server at once (SIGKILL), as a crash would; undefined where there is none. */
  readonly kill?: () => Promise<void>;
  /** Ends it, and removes what it wrote. */
  stop(): Promise<void>;
}

export interface StoreKind {
  readonly name: string;
  /** Why it cannot be tried here. */
  readonly missing?: string | undefined;
  /** Whether another process can open it. */
  readonly shared: boolean;
  /** Whether it lists what has expired. */
  readonly listsExpired?: boolean;
  start(): Promise<Served>;
}

export function scratch(): string {
  return mkdtempSync(join(tmpdir(), "memformer-store-"));
}

const onPath = (name: string): boolean =>
  (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, name)));

/** Where PostgreSQL's programs are: Debian keeps them off the path. */
function postgresPrograms(): string | undefined {
  const base = "/usr/lib/postgresql";
  const versions = existsSync(base) ? readdirSync(base).toSorted((a, b) => Number(b) - Number(a)) : [];
  return versions.map((version) => join(base, version, "bin")).find((folder) => existsSync(join(folder, "initdb")));
}

async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill(signal);
  await exit;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 20) {
    if (waited > 30_000) throw new Error(`${what} did not start`);
    await sleep(20);
  }
}

async function startRedis(kind: "node-redis" | "ioredis"): Promise<Served> {
  const folder = scratch(),
    socket = join(folder, "redis.sock");
  const options = {
    port: "0",
    unixsocket: socket,
    dir: folder,
    save: "",
    appendonly: "no",
    "maxmemory-policy": "noeviction",
  };
  const child = spawn(
    "redis-server",
    Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]),
    {
      stdio: "ignore",
    },
  );
  await until("redis-server", () => existsSync(socket));
  return {
    place: { kind, socket },
    kill: async () => ended(child, "SIGKILL"),
    stop: async () => {
      await ended(child, "SIGTERM");
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The user and group that PostgreSQL, which root may not run, is run as. */
function asWhom(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {};
  const id = (flag: string): number => Number(spawnSync("id", [flag, "nobody"], { encoding: "utf8" }).stdout);
  return { uid: id("-u"), gid: id("-g") };
}

async function startPostgres(): Promise<Served> {
  const programs = postgresPrograms()!,
    folder = scratch(),
    data = join(folder, "data"),
    who = asWhom();
  chmodSync(folder, 0o755);
  if (who.uid !== undefined) chownSync(folder, who.uid, who.gid!);
  const how = { ...who, cwd: folder, env: { ...process.env, LC_ALL: "C" } };
  const made = spawnSync(join(programs, "initdb"), ["-D", data, "-U", "memformer", "-A", "trust", "-N", "-E", "UTF8"], {
    ...how,
    encoding: "utf8",
  });
  if (made.status !== 0) throw new Error(`initdb: ${made.stderr}`);
  const settings = {
    listen_addresses: "",
    unix_socket_directories: folder,
    shared_buffers: "32MB",
    max_connections: "60",
  };
  const child = spawn(
    join(programs, "postgres"),
    ["-D", data, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])],
    { ...how, stdio: ["ignore", "ignore", "pipe"] },
  );
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => (log += chunk.toString()));
  await until("postgres", () => log.includes("ready to accept connections"));
  return {
    place: { kind: "postgres", socket: folder },
    kill: async () => {
      await ended(child, "SIGKILL");
      // Its children notice by themselves, at their next word with the dead.
      await sleep(100);
    },
    stop: async () => {
      await ended(child, "SIGINT");
      rmSync(folder, { recursive: true, force: true, maxRetries: 20 });
    },
  };
}

/** The stand-in for S3, with its switches. */
export async function startS3Store(): Promise<Served & { readonly server: S3Server }> {
  const bucket = "sessions",
    server = await startS3(bucket);
  let closed = false;
  const close = async (): Promise<void> => {
    if (!closed) await server.close();
    closed = true;
  };
  const place: StorePlace = { kind: "s3", endpoint: server.endpoint, bucket, prefix: "" };
  return { server, place, kill: close, stop: close };
}

const noRedis = onPath("redis-server") ? undefined : "redis-server is not installed";

export const storeKinds: readonly StoreKind[] = [
  {
    name: "memory",
    shared: false,
    start: async () => ({ place: { kind: "memory" }, stop: async () => undefined }),
  },
  {
    name: "files",
    shared: true,
    start: async () => {
      const folder = scratch();
      return {
        place: { kind: "files", folder: join(folder, "sessions") },
        stop: async () => rmSync(folder, { recursive: true, force: true }),
      };
    },
  },
  { name: "Redis by node-redis", missing: noRedis, shared: true, start: async () => startRedis("node-redis") },
  { name: "Redis by ioredis", missing: noRedis, shared: true, start: async () => startRedis("ioredis") },
  {
    name: "PostgreSQL",
    missing: postgresPrograms() === undefined ? "postgresql is not installed" : undefined,
    shared: true,
    start: startPostgres,
  },
  { name: "S3 (a stand-in)", shared: true, listsExpired: true, start: startS3Store },
  {
    // Credentials and region from where the client of AWS takes them.
    name: "S3 (MEMFORMER_S3_BUCKET)",
    missing: process.env["MEMFORMER_S3_BUCKET"] === undefined ? "MEMFORMER_S3_BUCKET is not set" : undefined,
    shared: true,
    listsExpired: true,
    start: async () => ({
      place: {
        kind: "s3",
        endpoint: undefined,
        bucket: process.env["MEMFORMER_S3_BUCKET"]!,
        prefix: `memformer-test-${Date.now()}/`,
      },
      stop: async () => undefined,
    }),
  },
];
