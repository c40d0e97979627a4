/**
 * The log of a run: each record becomes a line of `log.jsonl` and a point on each of TensorBoard's curves. A disk that
 * is full does not end the run that is logged: lines and points wait in memory until they can be written.
 */
import { join } from "node:path";
import { z } from "zod";
import { isMemformerError, MemformerError } from "../errors.ts";
import { checkOptions, optionSchema, optionTypes } from "../options.ts";
import { JsonlLog, type JsonlRecord } from "./jsonl.ts";
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
  /** Called with the first failure to write of several in a row; without it, each failure is thrown. */
  readonly onFailure?: ((error: MemformerError) => void) | undefined;
}

const optionsOf = optionSchema<RunLogOptions>({
  resumeAfter: z.int().nonnegative().optional(),
  tensorboard: z.boolean().optional(),
  onFailure: optionTypes.call.optional(),
});

/** Open log files of one run. */
export class RunLog {
  readonly #lines: JsonlLog;
  readonly #events: EventWriter | undefined;
  readonly #onFailure: RunLogOptions["onFailure"];
  #kept: JsonlRecord[] = []; // lines that could not be written yet
  #failing = false;

  private constructor(lines: JsonlLog, events: EventWriter | undefined, onFailure: RunLogOptions["onFailure"]) {
    this.#lines = lines;
    this.#events = events;
    this.#onFailure = onFailure;
  }

  /** Opens the logs in `folder`, made if need be. Throws IO. */
  static async open(folder: string, options: RunLogOptions = {}): Promise<RunLog> {
    checkOptions(optionsOf, options, "RunLog");
    const { resumeAfter, tensorboard = true, onFailure } = options;
    const lines = await JsonlLog.open(join(folder, "log.jsonl"), { resumeAfter });
    try {
      return new RunLog(
        lines,
        tensorboard ? EventWriter.create(join(folder, "tensorboard"), { resumeAfter }) : undefined,
        onFailure,
      );
    } catch (error) {
      lines.close();
      throw error;
    }
  }

  /**
   * Logs one record, with the time as `time` (seconds since 1970). The line is in its file when this returns; points
   * wait for {@link flush}. Throws CONFIG for a step or a value that is not a number (nothing is written then),
   * DISPOSED, and, without `onFailure`, IO.
   */
  record(record: RunRecord): void {
    const { step, ...numbers } = record;
    if (!Number.isSafeInteger(step) || step < 0) {
      throw new MemformerError("CONFIG", `step: expected a whole number of at least 0, got ${String(step)}`, {
        details: { step },
      });
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
    this.#kept.push({ ...record, time });
    this.#tolerant(
      () => {
        this.#appendKept();
      },
      () => {
        for (const [name, value] of Object.entries(numbers)) this.#events?.scalar(name, value, step, time);
      },
    );
  }

  /** Makes the points so far visible to a running TensorBoard. Throws IO where {@link record} does. */
  flush(): void {
    this.#tolerant(() => this.#events?.flush());
  }

  /** Writes what waits and closes; once more is harmless. Throws IO when something is lost for good. */
  close(): void {
    try {
      this.#appendKept();
    } finally {
      try {
        this.#events?.close();
      } finally {
        this.#lines.close();
      }
    }
  }

  #appendKept(): void {
    while (this.#kept.length > 0) {
      this.#lines.append(this.#kept[0]!);
      this.#kept.shift();
    }
  }

  /** Runs each of `writes`; the first failure of the file system is told once, until all go well again. */
  #tolerant(...writes: (() => void)[]): void {
    let failure: MemformerError | undefined;
    for (const write of writes) {
      try {
        write();
      } catch (error) {
        const io = isMemformerError(error) && error.code === "ERR_MEMFORMER_IO";
        if (!io || this.#onFailure === undefined) {
          this.#kept = []; // the caller knows
          throw error;
        }
        failure ??= error as MemformerError;
      }
    }
    if (failure !== undefined && !this.#failing) this.#onFailure?.(failure);
    this.#failing = failure !== undefined;
  }
}
