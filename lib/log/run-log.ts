/** The log of a run: each record becomes a line of `log.jsonl` and a point on each of TensorBoard's curves. */
import { join } from "node:path";
import { MemformerError } from "../errors.ts";
import { JsonlLog } from "./jsonl.ts";
import { EventWriter } from "./tensorboard.ts";

/** Numbers by name, measured at a step; the names are TensorBoard's tags (`"train/loss"`). */
export interface RunRecord {
  readonly step: number;
  readonly [name: string]: number;
}

export interface RunLogOptions {
  /** The step of the checkpoint that is resumed: what was logged beyond it is forgotten. Default: nothing is. */
  readonly resumeAfter?: number | undefined;
  /** Whether to write event files for TensorBoard, into the folder `tensorboard` beside the log (default true). */
  readonly tensorboard?: boolean | undefined;
}

/** Open log files of one run. */
export class RunLog {
  readonly #lines: JsonlLog;
  readonly #events: EventWriter | undefined;

  private constructor(lines: JsonlLog, events: EventWriter | undefined) {
    this.#lines = lines;
    this.#events = events;
  }

  /** Opens the logs in `folder`, made if need be. Throws IO. */
  static async open(folder: string, options: RunLogOptions = {}): Promise<RunLog> {
    const { resumeAfter, tensorboard = true } = options;
    const lines = await JsonlLog.open(join(folder, "log.jsonl"), { resumeAfter });
    try {
      return new RunLog(lines,
        tensorboard ? EventWriter.create(join(folder, "tensorboard"), { resumeAfter }) : undefined);
    } catch (error) {
      lines.close();
      throw error;
    }
  }

  /**
   * Logs one record, with the time as `time` (seconds since 1970). The line is in its file when this returns; points
   * wait for {@link flush}. Throws CONFIG for a step or a value that is no number (nothing is written then), IO,
   * DISPOSED.
   */
  record(record: RunRecord): void {
    const { step, ...numbers } = record;
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new MemformerError("CONFIG", `step: expected a whole number of at least 0, got ${String(step)}`,
        { details: { step } });
    }
    for (const [name, value] of Object.entries(numbers)) {
      if (name === "time" || name === "") {
        throw new MemformerError("CONFIG", `the name "${name}" is not free for a logged value`);
      }
      if (typeof value !== "number") {
        throw new MemformerError("CONFIG", `${name}: expected a number, got ${typeof value}`, { details: { name } });
      }
    }
    const time = Date.now() / 1000;
    this.#lines.append({ ...record, time });
    for (const [name, value] of Object.entries(numbers)) this.#events?.scalar(name, value, step, time);
  }

  /** Makes the points so far visible to a running TensorBoard. Throws IO. */
  flush(): void {
    this.#events?.flush();
  }

  /** Flushes and closes; once more is harmless. */
  close(): void {
    try {
      this.#events?.close();
    } finally {
      this.#lines.close();
    }
  }
}
