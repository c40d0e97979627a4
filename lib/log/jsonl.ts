/**
 * An append-only log of JSON lines. Each line is one write to a file opened with O_APPEND, so a killed process leaves
 * at most one torn line at the end, and opening drops it. A resumed run cuts the lines its dead predecessor wrote after
 * the checkpoint, so that each step appears once.
 */
import { closeSync, createReadStream, fstatSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { truncate } from "node:fs/promises";
import { errnoOf, withIoErrors, withIoErrorsSync } from "../io-error.ts";
import { makeFolderSync } from "../files/make-folder.ts";
import { MemformerError } from "../errors.ts";
import { knownOptions } from "../options.ts";

export interface JsonlRecord {
  readonly step: number;
  readonly [field: string]: unknown;
}

/** A log file open for appending. */
export class JsonlLog {
  readonly path: string;
  #descriptor: number | undefined;

  private constructor(path: string, descriptor: number) {
    this.path = path;
    this.#descriptor = descriptor;
  }

  /**
   * Opens or makes a log; a torn last line goes. With `resumeAfter`, the first line of a later step goes and all after
   * it. Throws IO.
   */
  static async open(path: string, options: { resumeAfter?: number | undefined } = {}): Promise<JsonlLog> {
    knownOptions(["resumeAfter"], options, "JsonlLog");
    return await withIoErrors("open", path, async () => {
      makeFolderSync(dirname(path));
      await repair(path, options.resumeAfter ?? Infinity);
      return new JsonlLog(path, openSync(path, "a"));
    });
  }

  /**
   * Appends one line; it is in the file when this returns. NaN and the infinities become strings, which JSON lacks
   * numbers for. Throws IO (a line that did not fit whole is taken back), DISPOSED after close.
   */
  append(record: JsonlRecord): void {
    const descriptor = this.#descriptor;
    if (descriptor === undefined) throw new MemformerError("DISPOSED", `${this.path} has been closed`);
    const line = Buffer.from(`${JSON.stringify(record, nonFinite)}\n`);
    withIoErrorsSync("append to", this.path, () => {
      const written = writeSync(descriptor, line);
      if (written === line.length) return;
      ftruncateSync(descriptor, fstatSync(descriptor).size - written);
      throw Object.assign(new Error("ENOSPC: no space left on device for a whole line"), { code: "ENOSPC" });
    });
  }

  /** Closes the file; once more is harmless. */
  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** Cuts `path` after its last whole line, or before the first line of a step beyond `lastStep`. */
async function repair(path: string, lastStep: number): Promise<void> {
  const newline = 0x0a;
  let good = 0;
  let size = 0;
  let pieces: Buffer[] = [];
  try {
    scan: for await (const block of createReadStream(path) as AsyncIterable<Buffer>) {
      let from = 0;
      for (let at = block.indexOf(newline); at >= 0; at = block.indexOf(newline, from)) {
        pieces.push(block.subarray(from, at + 1));
        const line = Buffer.concat(pieces);
        size = good + line.length;
        if (stepOf(line.toString()) > lastStep) break scan;
        good = size;
        pieces = [];
        from = at + 1;
      }
      pieces.push(block.subarray(from));
      size = good + pieces.reduce((sum, piece) => sum + piece.length, 0);
    }
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return;
    throw error;
  }
  if (size > good) await truncate(path, good);
}

/** A line that cannot be read is kept with those before it: it is someone's data, and tells no step. */
function stepOf(line: string): number {
  try {
    const step = (JSON.parse(line) as { step?: unknown } | null)?.step;
    return typeof step === "number" ? step : -Infinity;
  } catch {
    return -Infinity;
  }
}

function nonFinite(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}
