/**
 * A lock file that holds between processes. The holder's process id and start time are inside, so that a lock left by a
 * process that died is taken over, even if its id has gone to another process since.
 */
import { link, mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
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
  let waited = false;
  while (!(await tryTake(path))) {
    const text = await readFile(path, "utf8").catch(() => undefined);
    if (text === undefined) continue;
    const holder = parse(text);
    if (holder === undefined ? await isOld(path) : await isGone(holder)) {
      await discard(path, text);
      continue;
    }
    if (!waited && holder !== undefined) options.onWait?.(holder.pid);
    waited = true;
    if (Date.now() > deadline) {
      const owner = `process ${holder?.pid ?? "?"} on ${holder?.host ?? "?"}`;
      const message = `${path} is held by ${owner}; delete it if that process is gone.`;
      throw new MemformerError("BUSY", message, { details: { path, ...holder } });
    }
    await sleep(100);
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

/** A lock without content: its maker is about to write it, or died before it could. */
async function isOld(path: string): Promise<boolean> {
  await sleep(1000);
  return (await readFile(path, "utf8").catch(() => "gone")) === "";
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

/** Two processes may find the same dead lock: what was moved away is looked at again, and put back if it is alive. */
async function discard(path: string, dead: string): Promise<void> {
  const aside = `${path}.${process.pid}`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  if ((await readFile(aside, "utf8")) !== dead) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}
