/**
 * Records in a folder, a file each: 8 bytes of format, 16 of version, 8 of when it expires (float64, ms since 1970,
 * Infinity: never), and the record. A file is there whole or not at all, whenever the process is killed; of processes
 * that write the same record, a lock beside it lets one after another compare and rename.
 */
import { constants } from "node:fs";
import { chmod, open, readdir, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { isMemformerError, MemformerError } from "../../errors.ts";
import { sweepPartials, syncFolder, writeFileAtomic } from "../../files/atomic.ts";
import { withLock } from "../../files/lock.ts";
import { makeFolder } from "../../files/make-folder.ts";
import { errnoOf, withIoErrors } from "../../io-error.ts";
import { conflict, isKey, type KeyPage, type PutOptions, type SessionStore, type StoredRecord } from "../store.ts";
import { newVersion } from "./backend.ts";
import { checked, type PageOptions, type UncheckedStore } from "./checked.ts";
import { pageOf } from "./memory.ts";

/**
 * A store in `folder`, which is made when it is missing (readable by its owner alone). Several processes of one host
 * may share it; for several hosts, take a store with a server. Symbolic links in the folder are not followed.
 *
 * @throws MemformerError `CONFIG` when `folder` is not a path. Methods: `IO` when the file system fails,
 * `CHECKPOINT_FORMAT` for a file that is not a record, `BUSY` when another process holds a record's lock for 10 s.
 */
export function fileStore(folder: string): SessionStore {
  if (typeof folder !== "string" || folder === "")
    throw new MemformerError("CONFIG", `folder: expected a path, got ${JSON.stringify(folder)}`, {
      details: { folder },
    });
  return checked(new FileStore(folder));
}

const MAGIC = Buffer.from("MFRECORD", "latin1");
const VERSION_AT = 8;
const EXPIRES_AT = 24;
const HEADER = 32;

const LOCK = { patience: 10, poll: 0.002 };
/** How often records that nobody asks for are looked at, in ms. */
const SWEEP_EVERY = 600_000;
const SAFE = constants.O_NOFOLLOW | constants.O_NONBLOCK;

interface Header {
  readonly version: string;
  readonly live: boolean;
}

class FileStore implements UncheckedStore {
  readonly #folder: string;
  /** The last write of each key that is under way here: processes lock, calls of one process queue. */
  readonly #queues = new Map<string, Promise<unknown>>();
  #opened: Promise<void> | undefined;
  #swept = -Infinity;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async #open(): Promise<void> {
    this.#opened ??= this.#makeFolder().catch((error: unknown) => {
      this.#opened = undefined;
      throw error;
    });
    return this.#opened;
  }

  async #makeFolder(): Promise<void> {
    await withIoErrors("open store", this.#folder, async () => {
      const there = await readdir(this.#folder).then(
        () => true,
        (error: unknown) => {
          if (errnoOf(error) === "ENOENT") return false;
          throw error;
        },
      );
      if (there) return;
      await makeFolder(this.#folder);
      await chmod(this.#folder, 0o700);
    });
    await sweepPartials(this.#folder);
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    await this.#open();
    return this.#read(key, async (handle, { version, live }) =>
      live ? { version, bytes: await handle.readFile() } : undefined,
    );
  }

  async put(key: string, bytes: Uint8Array, { ifVersion, ttl }: PutOptions): Promise<string> {
    const version = newVersion(),
      head = Buffer.alloc(HEADER);
    await this.#alone(key, async () => {
      const found = await this.#version(key);
      if (found !== ifVersion) throw conflict(key, ifVersion, found);
      MAGIC.copy(head);
      head.write(version, VERSION_AT, "hex");
      head.writeDoubleLE(ttl === undefined ? Infinity : Date.now() + ttl * 1000, EXPIRES_AT);
      await writeFileAtomic(join(this.#folder, key), async (handle) => {
        await handle.chmod(0o600);
        await handle.writeFile(head);
        await handle.writeFile(bytes);
      });
    });
    this.#sweep();
    return version;
  }

  async delete(key: string, ifVersion?: string): Promise<boolean> {
    return this.#alone(key, async () => {
      const found = await this.#version(key);
      if (found !== null && ifVersion !== undefined && found !== ifVersion) throw conflict(key, ifVersion, found);
      await this.#remove(key);
      return found !== null;
    });
  }

  async list(prefix: string, { cursor = "", limit }: PageOptions): Promise<KeyPage> {
    await this.#open();
    const keys = (await this.#keys()).filter((key) => key.startsWith(prefix) && key > cursor),
      page = pageOf(keys, limit);
    const live: string[] = [];
    for (const key of page.keys) {
      const state = await this.#state(key);
      if (state === "live") live.push(key);
      else if (state === "expired") await this.#removeExpired(key);
    }
    return { ...page, keys: live };
  }

  async touch(key: string, ttl: number): Promise<boolean> {
    return this.#alone(key, async () => {
      const touched = await this.#read(
        key,
        async (handle, { live }) => {
          const expires = Buffer.alloc(8);
          expires.writeDoubleLE(Date.now() + ttl * 1000);
          if (live) await handle.write(expires, 0, 8, EXPIRES_AT);
          if (live) await handle.datasync();
          return live;
        },
        constants.O_RDWR,
      );
      return touched === true;
    });
  }

  /** Runs `work` while neither this process nor another writes the record. */
  async #alone<T>(key: string, work: () => Promise<T>): Promise<T> {
    await this.#open();
    const before = this.#queues.get(key) ?? Promise.resolve(),
      path = join(this.#folder, `.${key}.lock`),
      locked = (): Promise<T> => withIoErrors("lock", path, () => withLock(path, LOCK, work));
    const mine = before.then(locked, locked);
    this.#queues.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#queues.get(key) === mine) this.#queues.delete(key);
    }
  }

  /** What `use` makes of a record's file, whose header has been read; undefined: there is none. */
  async #read<T>(
    key: string,
    use: (handle: FileHandle, header: Header) => Promise<T>,
    mode: number = constants.O_RDONLY,
  ): Promise<T | undefined> {
    const path = join(this.#folder, key);
    return withIoErrors("read", path, async () => {
      const handle = await open(path, mode | SAFE).catch((error: unknown) => {
        if (errnoOf(error) === "ENOENT") return undefined;
        throw error;
      });
      try {
        return handle && (await use(handle, await headerOf(handle, path)));
      } finally {
        await handle?.close();
      }
    });
  }

  /** The version that is there; null for none, or an expired one. */
  async #version(key: string): Promise<string | null> {
    const found = await this.#read(key, async (_, { live, version }) => (live ? version : null));
    return found ?? null;
  }

  /** A file of somebody else does not keep a list from its other records. */
  async #state(key: string): Promise<"live" | "expired" | "foreign"> {
    try {
      return (await this.#version(key)) === null ? "expired" : "live";
    } catch (error) {
      if (isMemformerError(error) && error.code === "ERR_MEMFORMER_CHECKPOINT_FORMAT") return "foreign";
      throw error;
    }
  }

  async #keys(): Promise<string[]> {
    const entries = await withIoErrors("list", this.#folder, () => readdir(this.#folder, { withFileTypes: true }));
    return entries.filter((entry) => entry.isFile() && isKey(entry.name)).map(({ name }) => name);
  }

  async #remove(key: string): Promise<void> {
    const path = join(this.#folder, key);
    await withIoErrors("remove", path, async () => {
      await rm(path, { force: true });
      await syncFolder(this.#folder);
    });
  }

  async #removeExpired(key: string): Promise<void> {
    await this.#alone(key, async () => {
      if ((await this.#version(key)) === null) await this.#remove(key);
    });
  }

  /** From time to time, beside what was asked for: a failure here is met again by the next call of that record. */
  #sweep(): void {
    if (performance.now() - this.#swept < SWEEP_EVERY) return;
    this.#swept = performance.now();
    const sweep = async (): Promise<void> => {
      for (const key of await this.#keys()) if ((await this.#state(key)) === "expired") await this.#removeExpired(key);
    };
    sweep().catch(() => undefined);
  }
}

async function headerOf(handle: FileHandle, path: string): Promise<Header> {
  const head = Buffer.alloc(HEADER),
    isFile = (await handle.stat()).isFile(),
    { bytesRead } = isFile ? await handle.read(head, 0, HEADER) : { bytesRead: 0 };
  if (bytesRead < HEADER || !head.subarray(0, MAGIC.length).equals(MAGIC))
    throw new MemformerError("CHECKPOINT_FORMAT", `${path} is not a record of a session store`, { details: { path } });
  return {
    version: head.toString("hex", VERSION_AT, EXPIRES_AT),
    live: head.readDoubleLE(EXPIRES_AT) > Date.now(),
  };
}
