/**
 * The checkpoints of one run, safe against a kill at any moment:
 *
 *     root/step-000120/  …files…  manifest.json     a whole checkpoint; never changed once it has this name
 *     root/last.json  root/best.json                {"folder": "step-000120"}, replaced by rename
 *     root/.step-000140.partial-<pid>-<random>/     being written, or left by a dead writer and swept by the next write
 *
 * A folder is filled and synced under its partial name, manifest last, then renamed: so it exists whole or not at all.
 * Only then do the pointers move and old folders go. A pointer that is damaged or names a folder that is not whole
 * counts for nothing; the manifests alone then tell which checkpoint is the newest. One writer a root at a time.
 */
import { readdir, readFile, rename } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { knownOptions, MemformerError } from "../errors.ts";
import {
  fillFolder,
  removeFolder,
  sweepPartials,
  syncFolder,
  writeFileAtomic,
  type FileWriter,
} from "../files/atomic.ts";
import { errnoOf, withIoErrors } from "../io-error.ts";
import { MANIFEST, wholeManifest, writeManifest } from "./manifest.ts";

export { verify } from "./manifest.ts";

/** A whole checkpoint of a store. */
export interface Checkpoint {
  readonly folder: string;
  readonly step: number;
  /** Whether it was the best so far when it was written. */
  readonly best: boolean;
}

const FOLDER = /^step-\d{6,}(-\d+)?$/;

/** Writes, finds and retires the checkpoints under one folder. */
export class CheckpointStore {
  /** Absolute path of the folder; made by the first write. */
  readonly root: string;
  readonly #keep: number;
  #writing: Promise<unknown> = Promise.resolve();

  /** `keep`: how many of the newest checkpoints stay, beside the best one (default 2). Throws CONFIG below 1. */
  constructor(root: string, options: { keep?: number } = {}) {
    knownOptions(["keep"], options, "CheckpointStore");
    const keep = options.keep ?? 2;
    if (!Number.isSafeInteger(keep) || keep < 1) {
      throw new MemformerError("CONFIG", `keep: expected a whole number of at least 1, got ${keep}`, {
        details: { keep },
      });
    }
    this.root = resolve(root);
    this.#keep = keep;
  }

  /**
   * Writes a checkpoint, makes it the last (and, with `best`, the best) one, removes those no longer kept, and returns
   * its folder. Calls wait for one another. Throws CONFIG for a bad step or file name, IO for the disk, or what a
   * writer threw; the checkpoints before it are then untouched and nothing partial is left.
   */
  async write(step: number, files: Record<string, FileWriter>, options: { best?: boolean } = {}): Promise<string> {
    knownOptions(["best"], options, "checkpoint");
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new MemformerError("CONFIG", `step: expected a whole number of at least 0, got ${step}`, {
        details: { step },
      });
    }
    const turn = this.#writing.then(() => this.#write(step, files, options.best ?? false));
    this.#writing = turn.catch(() => undefined);
    return await turn;
  }

  /**
   * The folder of the checkpoint written last, or undefined before the first. Of its files only the sizes are checked
   * here; {@link verify} reads them.
   */
  async last(): Promise<string | undefined> {
    const all = await this.list();
    return (await this.#pointed("last", all)) ?? all.at(-1)?.folder;
  }

  /** The folder of the best checkpoint, or undefined if none was marked so. */
  async best(): Promise<string | undefined> {
    const all = await this.list();
    return (await this.#pointed("best", all)) ?? all.findLast((checkpoint) => checkpoint.best)?.folder;
  }

  /** All whole checkpoints in the order they were written. Throws IO if the folder is there but unreadable. */
  async list(): Promise<readonly Checkpoint[]> {
    return (await this.#scan()).map(({ folder, step, best }) => ({ folder, step, best }));
  }

  async #write(step: number, files: Record<string, FileWriter>, best: boolean): Promise<string> {
    if (Object.hasOwn(files, MANIFEST)) {
      throw new MemformerError("CONFIG", `file name "${MANIFEST}" is the store's own`);
    }
    if ((await this.#names()).length > 0) await sweepPartials(this.root);
    const before = await this.#scan();
    const sequence = (before.at(-1)?.sequence ?? 0) + 1;
    const folder = await this.#freeName(step);
    const names = Object.keys(files);
    const manifest: FileWriter = (path) => writeManifest(dirname(path), names, { step, sequence, best });
    // Keys keep their order: the manifest is written last.
    await fillFolder(folder, { ...files, [MANIFEST]: manifest }, async (partial) => {
      await rename(partial, folder);
      await syncFolder(this.root);
    });
    await this.#publish(folder, best);
    await this.#retire(folder);
    return folder;
  }

  async #publish(folder: string, best: boolean): Promise<void> {
    try {
      await this.#point("last", folder);
    } catch (error) {
      await removeFolder(folder).catch(() => undefined);
      throw error;
    }
    if (best) await this.#point("best", folder);
  }

  async #retire(written: string): Promise<void> {
    const all = await this.#scan();
    const best = await this.best();
    const old = all.slice(0, -this.#keep).filter(({ folder }) => folder !== written && folder !== best);
    for (const { folder } of old) await removeFolder(folder);
  }

  async #scan(): Promise<(Checkpoint & { sequence: number })[]> {
    const found: (Checkpoint & { sequence: number })[] = [];
    for (const name of await this.#names()) {
      if (!FOLDER.test(name)) continue;
      const folder = join(this.root, name);
      const manifest = await wholeManifest(folder);
      if (manifest !== undefined) {
        found.push({ folder, step: manifest.step, best: manifest.best, sequence: manifest.sequence });
      }
    }
    return found.sort((a, b) => a.sequence - b.sequence);
  }

  async #names(): Promise<string[]> {
    return await withIoErrors("read", this.root, async () => {
      try {
        return await readdir(this.root);
      } catch (error) {
        if (errnoOf(error) === "ENOENT") return [];
        throw error;
      }
    });
  }

  /** A folder cannot be renamed over another, so a step that is written again gets a number behind it. */
  async #freeName(step: number): Promise<string> {
    const taken = new Set(await this.#names());
    const name = `step-${String(step).padStart(6, "0")}`;
    let free = name;
    for (let again = 2; taken.has(free); again++) free = `${name}-${again}`;
    return join(this.root, free);
  }

  async #point(pointer: "last" | "best", folder: string): Promise<void> {
    await writeFileAtomic(join(this.root, `${pointer}.json`), async (handle) => {
      await handle.writeFile(`${JSON.stringify({ folder: basename(folder) })}\n`);
    });
  }

  async #pointed(pointer: "last" | "best", all: readonly Checkpoint[]): Promise<string | undefined> {
    try {
      const text = await readFile(join(this.root, `${pointer}.json`), "utf8");
      const named = JSON.parse(text) as { folder?: unknown } | null;
      return all.find(({ folder }) => basename(folder) === named?.folder)?.folder;
    } catch {
      return undefined;
    }
  }
}
