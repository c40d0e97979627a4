/** Processes over one store, and calls of what test/support/store-process.ts does in them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { loader, programOf } from "./compiled.ts";
import type { StorePlace } from "./stores.ts";

export interface StoreProcess {
  readonly pid: number;
  /** What the call answers; rejects with what it threw, or when the process ends. */
  call<T>(name: string, ...args: unknown[]): Promise<T>;
  /** Stops or resumes it. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void;
  /** Ends it at once. */
  kill(): Promise<void>;
}

interface Answer {
  readonly ready?: boolean;
  readonly call: number;
  readonly value?: unknown;
  readonly error?: { readonly message: string; readonly code?: string; readonly details?: Record<string, unknown> };
}

export async function startStoreProcess(place: StorePlace): Promise<StoreProcess> {
  const child = spawn(process.execPath, [...loader, programOf("store-process"), JSON.stringify(place)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const waiting = new Map<number, { done: (value: unknown) => void; failed: (reason: Error) => void }>();
  let calls = 0,
    becameReady: (() => void) | undefined;
  const ready = new Promise<void>((resolve) => (becameReady = resolve));
  createInterface(child.stdout).on("line", (line) => {
    const { ready: isReady, call, value, error } = JSON.parse(line) as Answer;
    if (isReady) return becameReady?.();
    const waiter = waiting.get(call);
    waiting.delete(call);
    if (error === undefined) waiter?.done(value);
    else waiter?.failed(Object.assign(new Error(error.message), error));
  });
  const exit = once(child, "exit").then(() => {
    for (const { failed } of waiting.values()) failed(new Error("the process ended"));
    waiting.clear();
  });
  child.stdin.on("error", () => undefined);
  await Promise.race([
    ready,
    exit.then(() => {
      throw new Error("the process ended before it was ready");
    }),
  ]);
  return {
    pid: child.pid!,
    call: async <T>(name: string, ...args: unknown[]) =>
      new Promise<T>((resolve, reject) => {
        const call = calls++;
        waiting.set(call, { done: resolve as (value: unknown) => void, failed: reject });
        child.stdin.write(`${JSON.stringify({ call, name, args })}\n`);
      }),
    signal: (signal) => child.kill(signal),
    kill: async () => {
      child.kill("SIGKILL");
      await exit;
    },
  };
}
