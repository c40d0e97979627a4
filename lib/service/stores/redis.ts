/**
 * Records in Redis 6.2 or newer, each a hash of its version and bytes. Every method is one Lua script, so each is
 * atomic; a sorted set holds the keys in their order, a second one when they expire, by the server's clock.
 */
import { MemformerError } from "../../errors.ts";
import { conflict, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";
import { Backend, newVersion, type BackendOptions } from "./backend.ts";
import { AFTER_KEYS, checked, type PageOptions, type UncheckedStore } from "./checked.ts";

/** A client, pool, cluster or sentinel of node-redis 5 or newer (`redis`, `@redis/client`). */
export interface NodeRedisClient {
  /** The same client with other types of replies: this store asks for bytes. */
  withTypeMapping(mapping: never): unknown;
}

/** A client or cluster of `ioredis`. */
export interface IoRedisClient {
  /** Any command, its replies as bytes. */
  callBuffer(command: string, ...args: (string | Buffer | number)[]): Promise<unknown>;
}

export interface RedisStoreOptions extends BackendOptions {
  /**
   * Of every key in Redis. Default `memformer:`. In a Redis Cluster it must hold a hash tag (`{memformer}:`), for a
   * script's keys have to be of one node.
   */
  readonly prefix?: string | undefined;
}

/**
 * A store in Redis. `client` is yours: connected, and closed by you. What is durable is what the server makes durable:
 * `appendfsync always` keeps every write, `everysec` may lose the last second; `maxmemory-policy` has to be
 * `noeviction` or a `volatile-` one.
 *
 * @throws MemformerError `CONFIG` for a client that is neither node-redis nor ioredis, or bad options. Methods: `IO`
 * when the server fails or does not answer within `timeout`.
 */
export function redisStore(client: NodeRedisClient | IoRedisClient, options: RedisStoreOptions = {}): SessionStore {
  const { prefix = "memformer:" } = options;
  if (typeof prefix !== "string")
    throw new MemformerError("CONFIG", `prefix: expected a text, got ${typeof prefix}`, { details: { prefix } });
  return checked(new RedisStore(evaluator(client), prefix, new Backend("Redis", options)));
}

type Argument = string | Buffer;
/** Runs a script; texts come back as Buffers, whatever the client makes of them otherwise. */
type Evaluate = (script: string, keys: string[], args: Argument[]) => Promise<unknown>;

function evaluator(client: unknown): Evaluate {
  const given = (client ?? {}) as Record<string, unknown>;
  if (typeof given["callBuffer"] === "function") {
    const redis = client as IoRedisClient;
    return (script, keys, args) => redis.callBuffer("EVAL", script, keys.length, ...keys, ...args);
  }
  if (typeof given["withTypeMapping"] === "function") {
    const redis = client as { withTypeMapping(mapping: Record<number, unknown>): NodeRedisEval };
    const binary = redis.withTypeMapping({ ["$".charCodeAt(0)]: Buffer }); // "$": a text of RESP
    return (script, keys, args) => binary.eval(script, { keys, arguments: args });
  }
  throw new MemformerError("CONFIG", "client: expected a client of node-redis (5 or newer) or ioredis", {
    details: { client: typeof client },
  });
}

interface NodeRedisEval {
  eval(script: string, options: { keys: string[]; arguments: Argument[] }): Promise<unknown>;
}

// KEYS of all scripts: the record, the keys in their order, when keys expire. ARGV[1]: the record's key.
const NOW = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`;

const GET = `return redis.call('HMGET', KEYS[1], 'version', 'bytes')`;

/** ARGV: key, the expected version or '', the new one, ttl in ms or 0, bytes. */
const PUT = `${NOW}
local found = redis.call('HGET', KEYS[1], 'version') or ''
-- A client that lost its connection sends again: the first time it was written.
if found == ARGV[3] then return {1, found} end
if found ~= ARGV[2] then return {0, found} end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'bytes', ARGV[5])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if ARGV[4] == '0' then
  redis.call('PERSIST', KEYS[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
else
  local at = string.format('%.0f', now + ARGV[4])
  redis.call('PEXPIREAT', KEYS[1], at)
  redis.call('ZADD', KEYS[3], at, ARGV[1])
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', KEYS[3], gone)
end
return {1, ARGV[3]}`;

/** ARGV: key, the expected version or ''. */
const DELETE = `local found = redis.call('HGET', KEYS[1], 'version')
if found and ARGV[2] ~= '' and found ~= ARGV[2] then return {0, found} end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return {1, tostring(redis.call('DEL', KEYS[1]))}`;

/**
 * KEYS: keys, when they expire, where records begin. ARGV: from, to, limit. Answers where to go on, or '', then keys.
 */
const LIST = `local keys = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3] + 1)
local page = {''}
for i, key in ipairs(keys) do
  if i > tonumber(ARGV[3]) then
    page[1] = keys[i - 1]
  elseif redis.call('EXISTS', KEYS[3] .. key) == 1 then
    table.insert(page, key)
  else
    redis.call('ZREM', KEYS[1], key)
    redis.call('ZREM', KEYS[2], key)
  end
end
return page`;

/** ARGV: key, ttl in ms. */
const TOUCH = `${NOW}
local at = string.format('%.0f', now + ARGV[2])
if redis.call('PEXPIREAT', KEYS[1], at) == 0 then return 0 end
redis.call('ZADD', KEYS[3], at, ARGV[1])
return 1`;

class RedisStore implements UncheckedStore {
  readonly #evaluate: Evaluate;
  readonly #prefix: string;
  readonly #backend: Backend;

  constructor(evaluate: Evaluate, prefix: string, backend: Backend) {
    this.#evaluate = evaluate;
    this.#prefix = prefix;
    this.#backend = backend;
  }

  async #run(action: string, key: string, script: string, args: Argument[]): Promise<unknown> {
    return this.#backend.ask(`${action} record`, key, () => this.#evaluate(script, this.#keys(key), args));
  }

  #keys(key: string): string[] {
    return [`${this.#prefix}record:${key}`, `${this.#prefix}keys`, `${this.#prefix}expiry`];
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    const [version, bytes] = (await this.#run("read", key, GET, [])) as (Buffer | null)[];
    return version && bytes ? { version: version.toString(), bytes } : undefined;
  }

  async put(key: string, bytes: Uint8Array, { ifVersion, ttl }: PutOptions): Promise<string> {
    const blob = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      args = [key, ifVersion ?? "", newVersion(), milliseconds(ttl), blob];
    const [done, version] = (await this.#run("write", key, PUT, args)) as [number, Buffer];
    if (done === 0) throw conflict(key, ifVersion, version.toString() || null);
    return version.toString();
  }

  async delete(key: string, ifVersion?: string): Promise<boolean> {
    const [done, found] = (await this.#run("delete", key, DELETE, [key, ifVersion ?? ""])) as [number, Buffer];
    if (done === 0) throw conflict(key, ifVersion ?? null, found.toString());
    return found.toString() === "1";
  }

  async list(prefix: string, { cursor, limit }: PageOptions): Promise<KeyPage> {
    const from = cursor !== undefined && cursor >= prefix ? `(${cursor}` : `[${prefix}`,
      to = `(${prefix}${AFTER_KEYS}`,
      [record, ...indexes] = this.#keys("") as [string, string, string];
    const page = await this.#backend.ask("list records", `${prefix}*`, () =>
      this.#evaluate(LIST, [...indexes, record], [from, to, String(limit)]),
    );
    const [next, ...keys] = (page as Buffer[]).map(String) as [string, ...string[]];
    return next === "" ? { keys } : { keys, cursor: next };
  }

  async touch(key: string, ttl: number): Promise<boolean> {
    return (await this.#run("touch", key, TOUCH, [key, milliseconds(ttl)])) === 1;
  }
}

/** "0": never. What is to be forgotten in less than a millisecond is so in one. */
function milliseconds(ttl: number | undefined): string {
  return ttl === undefined ? "0" : String(Math.max(1, Math.round(ttl * 1000)));
}
