/**
 * The file of rows: a JSON object a line, appended and synced when a run is done. A process that is killed leaves at
 * most a torn last line, which the next one cuts off; that run is made again.
 */
import { createHash } from "node:crypto";
import { open, readFile, truncate } from "node:fs/promises";
import { z } from "zod";
import { MemformerError } from "../errors.ts";
import { errnoOf, withIoErrors } from "../io-error.ts";
import type { Json, Row, Settings } from "./experiment.ts";

const rowSchema = z.object({
  experiment: z.string(),
  settings: z.record(z.string(), z.unknown()),
  result: z.record(z.string(), z.unknown()).optional(),
  error: z.string().optional(),
  seconds: z.number(),
  machine: z.record(z.string(), z.union([z.string(), z.number()])),
});

/** The same for the same settings, whatever the order in which they are written. */
export function keyOf(experiment: string, settings: object): string {
  return JSON.stringify([experiment, sorted(settings as Settings)]);
}

/** A name for files of a run. */
export function shortKey(key: string): string {
  return createHash("sha256").update(key).digest("hex").slice(0, 16);
}

function sorted(value: Json): Json {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value as Record<string, Json | undefined>).filter(([, of]) => of !== undefined);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, of]) => [name, sorted(of!)]));
}

export class RowFile {
  readonly path: string;
  readonly #rows: Map<string, Row>;

  private constructor(path: string, rows: Map<string, Row>) {
    this.path = path;
    this.#rows = rows;
  }

  /**
   * The rows of a file, none if it is not there. Throws MemformerError DATA for a line that is no row, but for a torn
   * last one, which is cut off; IO.
   */
  static async open(path: string): Promise<RowFile> {
    const text = await withIoErrors("read", path, async () =>
      readFile(path, "utf8").catch((error: unknown) => {
        if (errnoOf(error) === "ENOENT") return "";
        throw error;
      }),
    );
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    if (whole.length < text.length) await withIoErrors("repair", path, () => truncate(path, Buffer.byteLength(whole)));
    const rows = new Map<string, Row>();
    whole.split("\n").forEach((line, i) => {
      if (line === "") return;
      const row = parsed(line, path, i + 1);
      rows.set(keyOf(row.experiment, row.settings), row);
    });
    return new RowFile(path, rows);
  }

  find(experiment: string, settings: object): Row | undefined {
    return this.#rows.get(keyOf(experiment, settings));
  }

  /** On disk when this resolves. Throws MemformerError IO; the file then ends with the row before. */
  async append(row: Row): Promise<void> {
    await withIoErrors("write", this.path, async () => {
      const file = await open(this.path, "a");
      try {
        const { size } = await file.stat();
        try {
          await file.appendFile(`${JSON.stringify(row)}\n`);
          await file.sync();
        } catch (error) {
          await file.truncate(size).catch(() => undefined);
          throw error;
        }
      } finally {
        await file.close();
      }
    });
    this.#rows.set(keyOf(row.experiment, row.settings), row);
  }
}

function parsed(line: string, path: string, number: number): Row {
  try {
    return rowSchema.parse(JSON.parse(line)) as Row;
  } catch (cause) {
    throw new MemformerError("DATA", `${path}: line ${number} is not a row of an experiment; delete it to go on`, {
      details: { path, line: number },
      cause,
    });
  }
}
