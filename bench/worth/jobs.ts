/** Runs handed out to processes side by side, until all are made or the time is up. */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Run } from "./plan.ts";
import type { DeviceName } from "./lib.ts";
import type { Row } from "./train-and-score.ts";
import type { Answer, Order } from "./worker.ts";

export interface JobOptions {
  /** Processes. */
  readonly jobs: number;
  /** Processes take them in turns. */
  readonly devices: readonly DeviceName[];
  /** CPU threads of a process; 0: as many as are usual. */
  readonly threads: number;
  /** When the last of them ends at the latest, by performance.now(). */
  readonly deadline: number;
  readonly onRow: (row: Row) => void;
  readonly onFailure: (run: Run, failure: string) => void;
}

/**
 * Returns the runs that there was no time for. A run is begun only where one as long as the longest so far would end in
 * time.
 */
export async function makeAll(runs: readonly Run[], options: JobOptions): Promise<Run[]> {
  const left = [...runs],
    unmade: Run[] = [];
  let longest = 0;
  const worker = async (device: DeviceName): Promise<void> => {
    let child: ChildProcess | undefined;
    try {
      while (left.length > 0) {
        const began = performance.now();
        if (began + longest > options.deadline) return;
        const run = left.shift()!;
        child ??= fork(fileURLToPath(new URL("worker.ts", import.meta.url)), {
          execArgv: process.execArgv,
          stdio: ["ignore", "inherit", "inherit", "ipc"],
        });
        const answer = await ask(child, { run, place: { device, threads: options.threads } }, options.deadline);
        if (answer === undefined) {
          unmade.push(run);
          child.kill("SIGKILL");
          child = undefined;
        } else if ("failure" in answer) {
          options.onFailure(run, answer.failure);
          if (!child.connected) child = undefined; // it has ended: the next run gets a process of its own
        } else {
          longest = Math.max(longest, performance.now() - began);
          options.onRow(answer.row);
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
async function ask(child: ChildProcess, order: Order, deadline: number): Promise<Answer | undefined> {
  return new Promise((resolve) => {
    const settle = (answer: Answer | undefined): void => {
      clearTimeout(timer);
      child.removeAllListeners("message").removeAllListeners("exit");
      resolve(answer);
    };
    const timer = setTimeout(settle, Math.min(2 ** 31 - 1, Math.max(0, deadline - performance.now())), undefined);
    child.once("message", (answer: Answer) => {
      settle(answer);
    });
    child.once("exit", (code, signal) => {
      settle({ failure: `its process ended with ${signal ?? code}` });
    });
    child.send(order);
  });
}
