/**
 * Records as objects of S3, or of a service like it that honours `If-Match` and `If-None-Match` on writes. An object is
 * 16 random bytes and the record: so its ETag, the version, is another with every put, whatever is in it.
 *
 * S3 forgets by whole days only, so when a record expires is kept here: with the put in its metadata, after a touch in
 * a small object beside it that names the ETag which it is for. An expired record is absent, and is removed when
 * something asks for it; a lifecycle rule on the bucket may remove those that nobody asks for.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { MemformerError } from "../../errors.ts";
import { conflict, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";
import { Backend, type BackendOptions } from "./backend.ts";
import { checked, type PageOptions, type UncheckedStore } from "./checked.ts";

/** The body of an object, as the SDK gives it. */
export interface ObjectBody {
  /** All of it. */
  transformToByteArray(): Promise<Uint8Array>;
}

/** `new S3()` of `@aws-sdk/client-s3`, or another client with these methods of it. */
export interface S3Client {
  /** As the SDK's. */
  getObject(input: { Bucket: string; Key: string; Range?: string }): Promise<{
    Body?: ObjectBody | undefined;
    ETag?: string | undefined;
    Metadata?: Record<string, string> | undefined;
  }>;
  /** As the SDK's. */
  putObject(input: {
    Bucket: string;
    Key: string;
    Body: Uint8Array;
    Metadata?: Record<string, string>;
    IfMatch?: string;
    IfNoneMatch?: string;
  }): Promise<{ ETag?: string | undefined }>;
  /** As the SDK's. */
  deleteObject(input: { Bucket: string; Key: string; IfMatch?: string }): Promise<unknown>;
  /** As the SDK's. */
  listObjectsV2(input: { Bucket: string; Prefix: string; StartAfter?: string; MaxKeys: number }): Promise<{
    Contents?: { Key?: string | undefined }[] | undefined;
    IsTruncated?: boolean | undefined;
  }>;
}

export interface S3StoreOptions extends BackendOptions {
  readonly bucket: string;
  /** Of every object's name. Default `memformer/`. */
  readonly prefix?: string | undefined;
}

/**
 * A store in a bucket of S3. `client` is yours, and closed by you. It takes the rights to get, put, delete and list
 * (without the last S3 answers 403 for an object that is not there, which is an IO error here).
 *
 * `list` may name records that have expired and were not asked for since.
 *
 * @throws MemformerError `CONFIG` for a client without the four methods or bad options. Methods: `IO` when S3 fails or
 * does not answer within `timeout`.
 */
export function s3Store(client: S3Client, options: S3StoreOptions): SessionStore {
  const { bucket, prefix = "memformer/" } = options;
  for (const method of ["getObject", "putObject", "deleteObject", "listObjectsV2"] as const)
    if (typeof (client as Partial<S3Client> | undefined)?.[method] !== "function")
      throw new MemformerError("CONFIG", `client: expected ${method}(), as new S3() of @aws-sdk/client-s3 has`);
  if (typeof bucket !== "string" || bucket === "")
    throw new MemformerError("CONFIG", `bucket: expected its name, got ${JSON.stringify(bucket)}`);
  if (typeof prefix !== "string") throw new MemformerError("CONFIG", `prefix: expected a text, got ${typeof prefix}`);
  return checked(new S3Store(client, bucket, prefix, new Backend(`S3 bucket ${bucket}`, options)));
}

const NONCE = 16;
/** How often a write that S3 asks to repeat (409) is repeated. */
const ATTEMPTS = 5;

interface Found extends StoredRecord {
  readonly nonce: string;
  readonly live: boolean;
  /** The ETag of what its latest touch left. */
  readonly touched: string | undefined;
}

class S3Store implements UncheckedStore {
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #backend: Backend;

  constructor(client: S3Client, bucket: string, prefix: string, backend: Backend) {
    this.#client = client;
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#backend = backend;
  }

  #record(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: `${this.#prefix}records/${key}` };
  }

  #expiry(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: `${this.#prefix}expiry/${key}` };
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    return this.#backend.ask("read record", key, async () => {
      const found = await this.#find(key);
      if (found === undefined) return undefined;
      if (found.live) return { version: found.version, bytes: found.bytes };
      await this.#remove(key, found);
      return undefined;
    });
  }

  async put(key: string, bytes: Uint8Array, { ifVersion, ttl }: PutOptions): Promise<string> {
    const nonce = randomBytes(NONCE),
      Body = Buffer.concat([nonce, bytes]),
      write = { ...this.#record(key), Body, Metadata: ttl === undefined ? {} : { expires: inSeconds(ttl) } };
    return this.#backend.ask("write record", key, async () => {
      let replaced = ifVersion;
      for (let attempt = 0; ; attempt++) {
        try {
          const { ETag } = await this.#client.putObject(
            replaced === null ? { ...write, IfNoneMatch: "*" } : { ...write, IfMatch: replaced },
          );
          return versionOf(ETag);
        } catch (error) {
          const status = statusOf(error);
          if (status === 409 && attempt < ATTEMPTS) {
            await sleep(10 * 2 ** attempt * (1 + Math.random()));
            continue;
          }
          if (status !== 404 && status !== 409 && status !== 412) throw error;
          if (status === 404 && nameOf(error) !== "NoSuchKey") throw error; // no such bucket
        }
        const found = await this.#find(key, "bytes=0-15");
        // A client whose answer was lost sends again: the first time it was written.
        if (found?.nonce === nonce.toString("hex")) return found.version;
        // An expired record is none: it is replaced where none is expected.
        if (ifVersion !== null || found === undefined || found.live || attempt >= ATTEMPTS)
          throw conflict(key, ifVersion, found?.live ? found.version : null);
        replaced = found.version;
      }
    });
  }

  async delete(key: string, ifVersion?: string): Promise<boolean> {
    return this.#backend.ask("delete record", key, async () => {
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        const found = await this.#find(key, "bytes=0-15");
        if (found === undefined) return false;
        if (found.live && ifVersion !== undefined && found.version !== ifVersion)
          throw conflict(key, ifVersion, found.version);
        if (await this.#remove(key, found)) return found.live;
      }
      throw new Error("other processes write it again and again");
    });
  }

  async list(prefix: string, { cursor, limit }: PageOptions): Promise<KeyPage> {
    const { Bucket, Key: base } = this.#record("");
    return this.#backend.ask("list records", `${prefix}*`, async () => {
      const after = cursor === undefined ? {} : { StartAfter: base + cursor };
      const { Contents = [], IsTruncated } = await this.#client.listObjectsV2({
        Bucket,
        Prefix: base + prefix,
        MaxKeys: limit,
        ...after,
      });
      const keys = Contents.map(({ Key = "" }) => Key.slice(base.length));
      return IsTruncated && keys.length > 0 ? { keys, cursor: keys.at(-1) } : { keys };
    });
  }

  async touch(key: string, ttl: number): Promise<boolean> {
    return this.#backend.ask("touch record", key, async () => {
      const found = await this.#find(key, "bytes=0-15");
      if (!found?.live) return false;
      await this.#client.putObject({
        ...this.#expiry(key),
        Body: Buffer.from(JSON.stringify({ version: found.version, expires: inSeconds(ttl) })),
      });
      return true;
    });
  }

  /** The object and what is known of its end, asked for at once; `Range`: so much of its body. */
  async #find(key: string, Range?: string): Promise<Found | undefined> {
    const [object, touched] = await Promise.all([
      this.#object(this.#record(key), Range),
      this.#object(this.#expiry(key)),
    ]);
    if (object === undefined) return undefined;
    const { bytes, version, metadata } = object;
    if (bytes.length < NONCE) throw new Error(`the object is not a record of a session store`);
    const after =
        touched && (JSON.parse(Buffer.from(touched.bytes).toString()) as { version: string; expires: string }),
      expires = after?.version === version ? after.expires : metadata["expires"];
    return {
      version,
      bytes: bytes.subarray(NONCE),
      touched: touched?.version,
      nonce: Buffer.from(bytes.subarray(0, NONCE)).toString("hex"),
      live: expires === undefined || Number(expires) > Date.now(),
    };
  }

  async #object(
    which: { Bucket: string; Key: string },
    Range?: string,
  ): Promise<{ bytes: Uint8Array; version: string; metadata: Record<string, string> } | undefined> {
    try {
      const { Body, ETag, Metadata } = await this.#client.getObject(Range === undefined ? which : { ...which, Range });
      if (Body === undefined) throw new Error("the answer has no body");
      return { bytes: await Body.transformToByteArray(), version: versionOf(ETag), metadata: Metadata ?? {} };
    } catch (error) {
      if (statusOf(error) === 404 && nameOf(error) === "NoSuchKey") return undefined;
      throw error;
    }
  }

  /** Whether it was there in that version. */
  async #remove(key: string, { version, touched }: Found): Promise<boolean> {
    try {
      await this.#client.deleteObject({ ...this.#record(key), IfMatch: version });
      if (touched !== undefined) await this.#client.deleteObject({ ...this.#expiry(key), IfMatch: touched });
      return true;
    } catch (error) {
      if ([404, 409, 412].includes(statusOf(error)) && nameOf(error) !== "NoSuchBucket") return false;
      throw error;
    }
  }
}

function inSeconds(ttl: number): string {
  return String(Date.now() + Math.round(ttl * 1000));
}

function versionOf(ETag: string | undefined): string {
  if (typeof ETag === "string" && ETag !== "") return ETag;
  throw new Error("the answer has no ETag");
}

function statusOf(error: unknown): number {
  return (error as { $metadata?: { httpStatusCode?: number } } | undefined)?.$metadata?.httpStatusCode ?? 0;
}

function nameOf(error: unknown): string {
  return (error as { name?: string } | undefined)?.name ?? "";
}
