/**
 * A lock file that holds between processes. The holder's process id and start time are inside, so that a lock left by a
 * process that died is taken over, even if its id has gone to another process since.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { hostname } from "node:os";
import { dirname, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MemformerError } from "../errors.ts";

interface Holder {
  readonly pid: number;
  readonly host: string;
  readonly started: string;
}

export interface LockOptions {
  /** Called once if another process holds the lock. */
  readonly onWait?: ((pid: number) => void) | undefined;
  /** How long to wait for it, in seconds. Default 3600. */
  readonly patience?: number | undefined;
  /** Seconds between looks at a lock that another process holds. Default 0.1. */
  readonly poll?: number | undefined;
}

/** What is written in a lock file, and which file it is. */
interface Found {
  readonly text: string;
  readonly file: string;
}

/**
 * Runs `work` while no other process holds `path`.
 *
 * @throws MemformerError `BUSY` when the lock is still held after `patience` seconds.
 */
export async function withLock<T>(path: string, options: LockOptions, work: () => Promise<T>): Promise<T> {
  const release = await takeLock(path, options);
  try {
    return await work();
  } finally {
    await release();
  }
}

/**
 * Takes `path`, and gives what lets go of it again.
 *
 * @throws MemformerError `BUSY` when the lock is still held after `patience` seconds.
 */
export async function takeLock(path: string, options: LockOptions): Promise<() => Promise<void>> {
  await mkdir(dirname(path), { recursive: true });
  const deadline = Date.now() + (options.patience ?? 3600) * 1000;
  let waited = false,
    empty: { readonly found: Found; readonly since: number } | undefined;
  while (!(await tryTake(path))) {
    const found = await look(path);
    if (found === undefined) continue;
    const holder = parse(found.text);
    // A lock without content: its maker is about to write it, or died before it could.
    if (found.text !== "") empty = undefined;
    else if (empty === undefined || !same(empty.found, found)) empty = { found, since: performance.now() };
    const left = empty !== undefined && performance.now() - empty.since > 1000;
    if (holder === undefined ? left : await isGone(holder)) {
      await discard(path, found);
      continue;
    }
    if (!waited && holder !== undefined) options.onWait?.(holder.pid);
    waited = true;
    if (Date.now() > deadline && empty === undefined) {
      const owner = `process ${holder?.pid ?? "?"} on ${holder?.host ?? "?"}`;
      const message = `${path} is held by ${owner}; delete it if that process is gone.`;
      throw new MemformerError("BUSY", message, { details: { path, ...holder } });
    }
    await sleep((options.poll ?? 0.1) * 1000);
  }
  return async () => rm(path, { force: true });
}

async function tryTake(path: string): Promise<boolean> {
  const holder: Holder = { pid: process.pid, host: hostname(), started: (await startTime(process.pid)) ?? "" };
  try {
    const file = await open(path, "wx");
    await file.writeFile(JSON.stringify(holder));
    await file.close();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function parse(text: string): Holder | undefined {
  try {
    return JSON.parse(text) as Holder;
  } catch {
    return undefined;
  }
}

/** Undefined: it is gone. Throws what else the file system says; a symbolic link is not followed (ELOOP). */
async function look(path: string): Promise<Found | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { ino, ctimeNs } = await handle.stat({ bigint: true });
      return { text: await handle.readFile("utf8"), file: `${ino} ${ctimeNs}` };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function same(a: Found | undefined, b: Found): boolean {
  return a !== undefined && a.text === b.text && a.file === b.file;
}

/** Of a holder on another host nothing can be known; it counts as alive. */
async function isGone({ pid, host, started }: Holder): Promise<boolean> {
  if (host !== hostname()) return false;
  const now = await startTime(pid);
  return now === undefined || (started !== "" && now !== started);
}

/** Field 22 of /proc/PID/stat, counted after the command's name, which may hold blanks. */
async function startTime(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  return text?.slice(text.lastIndexOf(")") + 2).split(" ")[19];
}

/**
 * Removes a dead lock. Of processes that find the same one only the first may: the others would remove the lock that
 * somebody took meanwhile. An abstract socket decides, which goes with its process, and so is never left over.
 */
async function discard(path: string, dead: Found): Promise<void> {
  const guard = await listen(`\0memformer-lock-${createHash("sha256").update(resolve(path)).digest("hex")}`);
  if (guard === undefined) return;
  try {
    if (same(await look(path), dead)) await rm(path, { force: true });
  } finally {
    guard.close();
  }
}

/** Undefined: another listens on that name. */
async function listen(name: string): Promise<Server | undefined> {
  const server = createServer();
  return await new Promise((done, failed) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") done(undefined);
      else failed(error);
    });
    server.listen({ path: name, exclusive: true }, () => {
      done(server);
    });
  });
}
