/**
 * Records in a table of PostgreSQL, which is made when it is missing. Every method is one statement, so each is atomic.
 * `bytes` is stored EXTERNAL: out of line and not compressed, for a memory does not compress.
 */
import { MemformerError } from "../../errors.ts";
import { conflict, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";
import { Backend, newVersion, type BackendOptions } from "./backend.ts";
import { AFTER_KEYS, checked, type PageOptions, type UncheckedStore } from "./checked.ts";

/** A pool or client of `pg`, or anything else that answers this way. `bytea` has to come as a Uint8Array. */
export interface PostgresClient {
  /** Runs a statement with `$1, $2 …` for the values. */
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

export interface PostgresStoreOptions extends BackendOptions {
  /** `name` or `schema.name`: letters, digits and `_`, at most 50 of them. Default `memformer_sessions`. */
  readonly table?: string | undefined;
}

/**
 * A store in PostgreSQL. `pool` is yours, and closed by you. The table is made on demand, which takes the right to
 * create in its schema; make it beforehand where the service has not that right (docs/scaling.md has the statement).
 *
 * @throws MemformerError `CONFIG` for a pool without `query` or a bad table name. Methods: `IO` when the server fails
 * or does not answer within `timeout`.
 */
export function postgresStore(pool: PostgresClient, options: PostgresStoreOptions = {}): SessionStore {
  if (typeof (pool as Partial<PostgresClient> | undefined)?.query !== "function")
    throw new MemformerError("CONFIG", "pool: expected something with query(text, values), such as a pool of pg");
  return checked(new PostgresStore(pool, options.table ?? "memformer_sessions", new Backend("PostgreSQL", options)));
}

const LIVE = "(expires IS NULL OR expires > now())";
const EXPIRES = "now() + $4::float8 * interval '1 second'"; // null: never

/** How often rows that nobody asks for are looked at, in ms. */
const SWEEP_EVERY = 60_000;

class PostgresStore implements UncheckedStore {
  readonly #pool: PostgresClient;
  readonly #table: string;
  readonly #index: string;
  readonly #backend: Backend;
  #swept = 0;

  constructor(pool: PostgresClient, table: string, backend: Backend) {
    const parts = typeof table === "string" ? table.split(".") : [];
    if (parts.length > 2 || !parts.every((part) => /^[A-Za-z_][A-Za-z0-9_]{0,49}$/.test(part)) || parts.length === 0)
      throw new MemformerError(
        "CONFIG",
        `table ${JSON.stringify(table)}: expected "name" or "schema.name" of at most 50 letters, digits and "_"`,
        { details: { table } },
      );
    this.#pool = pool;
    this.#table = parts.map((part) => `"${part}"`).join(".");
    this.#index = `"${parts.at(-1)}_expires"`;
    this.#backend = backend;
  }

  /** Rows of one statement. A table that is missing is made, and the statement runs again. */
  async #query(action: string, key: string, text: string, values: unknown[]): Promise<Record<string, unknown>[]> {
    return this.#backend.ask(action, key, async () => {
      try {
        return (await this.#pool.query(text, values)).rows;
      } catch (error) {
        if (stateOf(error) !== "42P01") throw error; // undefined_table
      }
      await this.#create();
      return (await this.#pool.query(text, values)).rows;
    });
  }

  async #create(): Promise<void> {
    const statements = `CREATE TABLE IF NOT EXISTS ${this.#table} (key text COLLATE "C" PRIMARY KEY,
        version text NOT NULL, expires timestamptz, bytes bytea NOT NULL);
      ALTER TABLE ${this.#table} ALTER COLUMN bytes SET STORAGE EXTERNAL;
      CREATE INDEX IF NOT EXISTS ${this.#index} ON ${this.#table} (expires) WHERE expires IS NOT NULL;`;
    try {
      await this.#pool.query(statements);
    } catch (error) {
      // Of two processes that make it at once the second gets one of these; a statement that still fails says why.
      if (!["23505", "42P07", "42710", "XX000", "40P01"].includes(stateOf(error))) throw error;
    }
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    const text = `SELECT version, bytes, ${LIVE} AS live FROM ${this.#table} WHERE key = $1`,
      [row] = await this.#query("read record", key, text, [key]);
    if (row === undefined) return undefined;
    if (row["live"] !== true) {
      await this.#sweep(key);
      return undefined;
    }
    const { version, bytes } = row;
    if (!(bytes instanceof Uint8Array))
      throw new MemformerError("CONFIG", `pool: expected bytea as a Uint8Array, got ${typeof bytes}`);
    return { version: String(version), bytes };
  }

  async put(key: string, bytes: Uint8Array, { ifVersion, ttl }: PutOptions): Promise<string> {
    const version = newVersion(),
      blob = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const values: unknown[] = [key, version, blob, ttl ?? null];
    const set = `version = $2, bytes = $3, expires = ${EXPIRES}`;
    // An expired row is none: it may be written over where none is expected.
    const text =
      ifVersion === null
        ? `INSERT INTO ${this.#table} AS t (key, version, bytes, expires) VALUES ($1, $2, $3, ${EXPIRES})
           ON CONFLICT (key) DO UPDATE SET ${set} WHERE t.expires <= now() RETURNING version`
        : `UPDATE ${this.#table} SET ${set} WHERE key = $1 AND version = $5 AND ${LIVE} RETURNING version`;
    const written = await this.#unlessBeaten(
      "write record",
      key,
      text,
      ifVersion === null ? values : [...values, ifVersion],
    );
    if (written.length === 0) throw conflict(key, ifVersion, await this.#version(key));
    if (performance.now() - this.#swept > SWEEP_EVERY) await this.#sweep();
    return version;
  }

  async delete(key: string, ifVersion?: string): Promise<boolean> {
    const condition = ifVersion === undefined ? "" : "AND version = $2",
      text = `DELETE FROM ${this.#table} WHERE key = $1 ${condition} RETURNING ${LIVE} AS live`,
      values = ifVersion === undefined ? [key] : [key, ifVersion];
    const [row] = await this.#unlessBeaten("delete record", key, text, values);
    if (row !== undefined) return row["live"] === true;
    const found = ifVersion === undefined ? null : await this.#version(key);
    if (found !== null) throw conflict(key, ifVersion ?? null, found);
    return false;
  }

  async list(prefix: string, { cursor = "", limit }: PageOptions): Promise<KeyPage> {
    const text = `SELECT key FROM ${this.#table} WHERE key >= $1 AND key < $2 AND key > $3 AND ${LIVE}
      ORDER BY key LIMIT $4`;
    const values = [prefix, `${prefix}${AFTER_KEYS}`, cursor, limit + 1];
    const rows = await this.#query("list records", `${prefix}*`, text, values),
      keys = rows.slice(0, limit).map(({ key }) => String(key));
    return rows.length > limit ? { keys, cursor: keys.at(-1) } : { keys };
  }

  async touch(key: string, ttl: number): Promise<boolean> {
    const text = `UPDATE ${this.#table} SET expires = now() + $2::float8 * interval '1 second'
      WHERE key = $1 AND ${LIVE} RETURNING version`;
    return (await this.#query("touch record", key, text, [key, ttl])).length > 0;
  }

  async #version(key: string): Promise<string | null> {
    const text = `SELECT version FROM ${this.#table} WHERE key = $1 AND ${LIVE}`,
      [row] = await this.#query("read record", key, text, [key]);
    return row === undefined ? null : String(row["version"]);
  }

  /**
   * No rows where another transaction wrote the row first: a stricter isolation than the default says so by an error.
   */
  async #unlessBeaten(
    action: string,
    key: string,
    text: string,
    values: unknown[],
  ): Promise<Record<string, unknown>[]> {
    try {
      return await this.#query(action, key, text, values);
    } catch (error) {
      if (stateOf((error as Error).cause) === "40001") return []; // serialization_failure
      throw error;
    }
  }

  /** Removes rows that have expired: `key`, or some of all. */
  async #sweep(key?: string): Promise<void> {
    this.#swept = performance.now();
    const which = key === undefined ? "expires <= now() LIMIT 1000" : "key = $1 AND expires <= now()";
    const text = `DELETE FROM ${this.#table} WHERE key IN
      (SELECT key FROM ${this.#table} WHERE ${which} FOR UPDATE SKIP LOCKED)`;
    await this.#query("remove expired records", key ?? "*", text, key === undefined ? [] : [key]);
  }
}

/** The five characters by which PostgreSQL names an error, or "". */
function stateOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : "";
}
