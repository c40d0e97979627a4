/** Waiting for something to change, for a while. */

export class Changes {
  readonly #waiting = new Set<() => void>();

  /** Something has changed: who waits looks again. */
  wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** Resolves once `there()`, after `seconds` in any case, and when the signal aborts. */
  async until(
    there: () => boolean,
    { seconds, signal }: { readonly seconds: number; readonly signal?: AbortSignal | undefined },
  ): Promise<void> {
    const end = Date.now() + 1000 * seconds;
    while (!there() && signal?.aborted !== true && Date.now() < end) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(() => wake(), end - Date.now());
        const wake = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          signal?.removeEventListener("abort", wake);
          resolve();
        };
        this.#waiting.add(wake);
        signal?.addEventListener("abort", wake, { once: true });
      });
    }
  }
}
