/**
 * Files and folders that are there whole or not at all. Everything is written under a hidden sibling name
 * `.<name>.partial-<pid>-<random>`, synced to disk, then renamed. A process killed halfway leaves only such a sibling,
 * and `sweepPartials` of a later writer removes it: the pid in the name tells whether its writer still lives.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open, mkdir, readdir, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { MemformerError } from "../errors.ts";
import { withIoErrors } from "../io-error.ts";
import { makeFolder } from "./make-folder.ts";

/** Writes one file of a folder; it is given the path to write to. */
export type FileWriter = (path: string) => Promise<void>;

const PARTIAL = /^\.(.+)\.partial-(\d+)-[0-9a-f]{8}$/;

/** Partials that this process is writing now. A pid alone cannot say: in a container the dead writer often had ours. */
const underway = new Set<string>();

/** A fresh hidden sibling name for `path`. */
export function partialPath(path: string): string {
  return join(dirname(path), `.${basename(path)}.partial-${process.pid}-${randomBytes(4).toString("hex")}`);
}

/**
 * Writes and syncs one file, then renames it to `path`. Throws IO; on any error `path` is untouched, the partial gone.
 */
export async function writeFileAtomic(path: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  await whileUnderway(path, async (partial) => {
    const handle = await open(partial, "wx");
    try {
      await write(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, path);
    await syncFolder(dirname(path));
  });
}

/** Receives a filled partial folder, and must rename it by the end; otherwise it is removed. */
export type Publish = (partial: string) => Promise<void>;

/**
 * Makes a partial folder beside `path`, lets each writer fill its file, syncs all, and hands the folder to `publish`.
 * Throws IO, CONFIG for a file name that is not plain, or what a writer threw; the partial is removed then.
 */
export async function fillFolder(path: string, files: Record<string, FileWriter>, publish: Publish): Promise<void> {
  Object.keys(files).forEach(checkFileName);
  await withIoErrors("create folder", dirname(path), () => makeFolder(dirname(path)));
  await whileUnderway(path, async (partial) => {
    await mkdir(partial);
    for (const [name, write] of Object.entries(files)) {
      await write(join(partial, name));
      await syncFile(join(partial, name), name);
    }
    await syncFolder(partial);
    await publish(partial);
  });
}

/** Removes a folder so that a kill in between cannot leave a half-empty one under its name. */
export async function removeFolder(path: string): Promise<void> {
  await withIoErrors("remove", path, async () => {
    const hidden = partialPath(path);
    await rename(path, hidden);
    await rm(hidden, { recursive: true, force: true });
  });
}

/** Removes what dead writers left in `folder`; with `name`, only leftovers of writing that name. */
export async function sweepPartials(folder: string, name?: string): Promise<void> {
  await withIoErrors("sweep", folder, async () => {
    for (const entry of await readdir(folder)) {
      const [, of, pid] = PARTIAL.exec(entry) ?? [];
      if (of === undefined || (name !== undefined && of !== name)) continue;
      const path = join(folder, entry);
      const alive = Number(pid) === process.pid ? underway.has(path) : isAlive(Number(pid));
      if (!alive) await rm(path, { recursive: true, force: true });
    }
  });
}

/** Makes renames inside `folder` survive a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function whileUnderway(path: string, work: (partial: string) => Promise<void>): Promise<void> {
  const partial = partialPath(path);
  underway.add(partial);
  try {
    await withIoErrors("write", path, () => work(partial));
  } finally {
    // On success it was renamed; on failure it goes, and a failing removal must not hide the first error.
    await rm(partial, { recursive: true, force: true }).catch(() => undefined);
    underway.delete(partial);
  }
}

async function syncFile(path: string, name: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) {
    throw new MemformerError(
      "CONFIG",
      `the writer of "${name}" returned without writing a file at the path it was given`,
    );
  }
  const handle = await open(path, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function checkFileName(name: string): void {
  if (/^[^./\\\0][^/\\\0]*$/.test(name)) return;
  throw new MemformerError(
    "CONFIG",
    `file name ${JSON.stringify(name)}: expected a plain name without slashes or a leading dot`,
    {
      details: { name },
    },
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
