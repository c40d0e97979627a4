/** Calls to a server that holds the records: its failures as MemformerError IO, and an end to waiting for it. */
import { randomBytes } from "node:crypto";
import { isMemformerError, MemformerError } from "../../errors.ts";

/** Of a store whose records a server holds. */
export interface BackendOptions {
  /** Seconds until a call that has no answer fails with IO. Default 10. */
  readonly timeout?: number | undefined;
}

export class Backend {
  readonly #name: string;
  readonly #timeout: number;

  /** `name`: as messages call it. Throws MemformerError CONFIG for a timeout that is not a number of seconds. */
  constructor(name: string, { timeout = 10 }: BackendOptions) {
    if (typeof timeout !== "number" || !(timeout > 0) || timeout > 3600)
      throw new MemformerError(
        "CONFIG",
        `timeout: expected seconds, above 0 and at most 3600, got ${String(timeout)}`,
        {
          details: { timeout },
        },
      );
    this.#name = name;
    this.#timeout = timeout;
  }

  /**
   * Runs `work`. Whatever it fails with leaves as IO with the cause, unless it is one of ours. After IO a write may
   * have happened or not, or happen yet: clients of servers send again what was not answered.
   */
  async ask<T>(action: string, key: string, work: () => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`no answer within ${this.#timeout} s`));
      }, this.#timeout * 1000);
    });
    try {
      return await Promise.race([work(), late]);
    } catch (error) {
      if (isMemformerError(error)) throw error;
      throw new MemformerError("IO", `cannot ${action} ${key} in ${this.#name}: ${reasonOf(error)}`, {
        details: { store: this.#name, action, key },
        cause: error,
      });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A version that no other write ever has. */
export function newVersion(): string {
  return randomBytes(16).toString("hex");
}

/** Some clients fail with an error without a message: the one of several attempts, or of an answer without a body. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") return error.errors.map(reasonOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  const code = (error as NodeJS.ErrnoException).code;
  return error.message || code || error.name;
}
