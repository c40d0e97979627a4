/**
 * Ctrl-C, SIGTERM and a terminal that goes (SIGHUP): the first signal asks for an orderly end, a second Ctrl-C or
 * SIGTERM ends at once. A hang-up never is that second one: a terminal that closes sends several.
 */

const exitCodes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

export interface Interruption {
  /** The exit code the signal stands for, once one came. */
  readonly exitCode: number | undefined;
  /** Aborts at the first signal. */
  readonly signal: AbortSignal;
  /** Gives the signals back to Node. */
  release(): void;
}

export function catchInterrupts(): Interruption {
  const controller = new AbortController();
  let exitCode: number | undefined;
  let asked = false;
  const handle = (name: keyof typeof exitCodes): void => {
    exitCode ??= exitCodes[name];
    controller.abort();
    if (name === "SIGHUP") return;
    if (asked) process.exit(exitCodes[name]);
    asked = true;
  };
  const names = Object.keys(exitCodes) as (keyof typeof exitCodes)[];
  for (const name of names) process.on(name, handle);
  return {
    get exitCode() {
      return exitCode;
    },
    signal: controller.signal,
    release() {
      // What is left of a hang-up, which sends several, does not take the exit code away.
      for (const name of names) if (name !== "SIGHUP" || exitCode === undefined) process.off(name, handle);
    },
  };
}
