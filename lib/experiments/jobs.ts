/** Runs handed out to processes side by side, until all are made or the time is up. */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { isMemformerError, type ErrorCode } from "../errors.ts";
import type { DeviceName } from "../native/cuda.ts";

/** Where a process computes. */
export interface Place {
  readonly device: DeviceName;
  /** CPU threads; 0: as many as are usual. */
  readonly threads: number;
}

/** To a process that makes runs, which answers each before it gets the next. */
export type Order<Run> = { readonly run: Run; readonly place: Place } | { readonly stop: true };
/** From it: what a run gave, why it gave nothing, or how far it is. `stopped`: it was told to stop. */
export type Answer<Row> =
  | { readonly row: Row }
  | { readonly failure: string; readonly code?: `ERR_MEMFORMER_${ErrorCode}` }
  | { readonly stopped: true }
  | { readonly note: string };

export interface JobOptions<Run, Row> {
  /** The module of the processes; it serves orders by {@link serveOrders}. */
  readonly worker: URL;
  /** Processes. */
  readonly jobs: number;
  /** Processes take them in turns. */
  readonly devices: readonly DeviceName[];
  readonly threads: number;
  /** By performance.now(): no run begins that would, being as long as the longest so far, end later. */
  readonly deadline: number;
  /** Whether a run that is under way at the deadline is killed. Default: it may end. */
  readonly kill?: boolean;
  /** Tells the processes to stop their runs; none begins after. */
  readonly signal?: AbortSignal | undefined;
  readonly onRow: (row: Row, run: Run) => void | Promise<void>;
  readonly onFailure: (run: Run, failure: string, code?: `ERR_MEMFORMER_${ErrorCode}`) => void;
  readonly onNote?: (note: string, place: Place) => void;
}

/** Returns the runs that there was no time for, and those that were stopped. */
export async function makeAll<Run, Row>(runs: readonly Run[], options: JobOptions<Run, Row>): Promise<Run[]> {
  const left = [...runs],
    unmade: Run[] = [];
  let longest = 0;
  const worker = async (device: DeviceName): Promise<void> => {
    const place = { device, threads: options.threads };
    let child: ChildProcess | undefined;
    try {
      while (left.length > 0 && options.signal?.aborted !== true) {
        const began = performance.now();
        if (began + longest > options.deadline) return;
        const run = left.shift()!;
        child ??= fork(fileURLToPath(options.worker), {
          execArgv: process.execArgv,
          stdio: ["ignore", "inherit", "inherit", "ipc"],
        });
        const answer = await ask(child, run, place, options);
        if (answer === undefined) {
          unmade.push(run);
          child.kill("SIGKILL");
          child = undefined;
        } else if ("row" in answer) {
          longest = Math.max(longest, performance.now() - began);
          await options.onRow(answer.row, run);
        } else if ("stopped" in answer) unmade.push(run);
        else if ("failure" in answer) {
          options.onFailure(run, answer.failure, answer.code);
          if (!child.connected) child = undefined; // it has ended: the next run gets a process of its own
        }
      }
    } finally {
      if (child?.connected === true) child.disconnect();
    }
  };
  await Promise.all(
    Array.from({ length: Math.min(options.jobs, runs.length) }, (_, i) =>
      worker(options.devices[i % options.devices.length]!),
    ),
  );
  return [...unmade, ...left];
}

/** Undefined when the time is up. */
async function ask<Run, Row>(
  child: ChildProcess,
  run: Run,
  place: Place,
  { deadline, kill = false, signal, onNote }: JobOptions<Run, Row>,
): Promise<Exclude<Answer<Row>, { note: string }> | undefined> {
  return new Promise((resolve) => {
    const stop = (): void => {
      if (child.connected) child.send({ stop: true } satisfies Order<Run>);
    };
    const settle = (answer: Exclude<Answer<Row>, { note: string }> | undefined): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      child.removeAllListeners("message").removeAllListeners("exit");
      resolve(answer);
    };
    const timer = kill
      ? setTimeout(settle, Math.min(2 ** 31 - 1, Math.max(0, deadline - performance.now())), undefined)
      : undefined;
    child.on("message", (answer: Answer<Row>) => {
      if ("note" in answer) onNote?.(answer.note, place);
      else settle(answer);
    });
    child.once("exit", (code, by) => {
      settle({ failure: `its process ended with ${by ?? code}` });
    });
    signal?.addEventListener("abort", stop);
    child.send({ run, place } satisfies Order<Run>);
  });
}

/**
 * The process's end of {@link makeAll}: makes runs as they are asked for, until its parent leaves or lives no more. A
 * signal from the terminal reaches parent and child; the parent decides what becomes of the run.
 */
export function serveOrders<Run, Row>(
  make: (run: Run, place: Place, signal: AbortSignal, note: (text: string) => void) => Promise<Row | undefined>,
): void {
  const answer = (given: Answer<Row>): void => void process.send?.(given);
  let stop = new AbortController();
  for (const name of ["SIGINT", "SIGHUP"] as const) process.on(name, () => undefined);
  process.on("message", (order: Order<Run>) => {
    if ("stop" in order) {
      stop.abort();
      return;
    }
    stop = new AbortController();
    make(order.run, order.place, stop.signal, (note) => {
      answer({ note });
    }).then(
      (row) => {
        answer(row === undefined ? { stopped: true } : { row });
      },
      (error: unknown) => {
        if (stop.signal.aborted && error === stop.signal.reason) answer({ stopped: true });
        else if (isMemformerError(error)) answer({ failure: error.message, code: error.code });
        else answer({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) });
      },
    );
  });
  process.on("disconnect", () => {
    process.exit();
  });
}
