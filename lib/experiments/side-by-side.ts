/** Runs of an experiment side by side, in a process for each device; worker.ts is the process. */
import { availableParallelism } from "node:os";
import { MemformerError, type ErrorCode } from "../errors.ts";
import type { DeviceName } from "../native/cuda.ts";
import type { Experiment, Row, Settings } from "./experiment.ts";
import { makeAll } from "./jobs.ts";

/** What a process beside gets of a run. */
export interface BesideRun {
  readonly out: string;
  readonly data: string | undefined;
  readonly tokenizer: string | undefined;
  readonly experiment: string;
  readonly settings: Settings;
}

export interface BesideOptions {
  readonly out: string;
  readonly data?: string | undefined;
  readonly tokenizer?: string | undefined;
  /** A process each. */
  readonly devices: readonly DeviceName[];
  readonly signal?: AbortSignal | undefined;
  readonly note?: ((text: string) => void) | undefined;
}

/**
 * Makes `missing` in a process for each device. Rejects with the first failure, when the runs beside it have stopped.
 */
export async function sideBySide(
  { name }: Experiment,
  missing: readonly Settings[],
  { out, data, tokenizer, devices, signal, note = () => undefined }: BesideOptions,
  deadline: number,
  keep: (row: Row) => Promise<void>,
): Promise<void> {
  const failed = new AbortController();
  let last = Promise.resolve(),
    failure: Error | undefined;
  const cores = Math.max(1, Math.floor(availableParallelism() / devices.length));
  await makeAll<BesideRun, Row>(
    missing.map((settings) => ({ experiment: name, settings, out, data, tokenizer })),
    {
      worker: new URL(import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js", import.meta.url),
      jobs: devices.length,
      devices,
      threads: cores,
      deadline,
      signal: signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]),
      onRow: (row) => (last = last.then(() => keep(row))),
      onNote: (text, { device }) => {
        note(`${device}: ${text}`);
      },
      onFailure: (_, message, code) => {
        const kind = code?.slice("ERR_MEMFORMER_".length) as ErrorCode | undefined;
        failure ??= kind === undefined ? new Error(message) : new MemformerError(kind, message);
        failed.abort();
      },
    },
  );
  if (failure !== undefined) throw failure;
}
