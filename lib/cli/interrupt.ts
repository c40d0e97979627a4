/** Ctrl-C and SIGTERM: the first one asks for an orderly end, a second one ends at once. */

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

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
  const handle = (name: keyof typeof exitCodes): void => {
    if (exitCode !== undefined) process.exit(exitCodes[name]);
    exitCode = exitCodes[name];
    controller.abort();
  };
  const names = Object.keys(exitCodes) as (keyof typeof exitCodes)[];
  for (const name of names) process.on(name, handle);
  return {
    get exitCode() {
      return exitCode;
    },
    signal: controller.signal,
    release() {
      for (const name of names) process.off(name, handle);
    },
  };
}
