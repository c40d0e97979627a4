/**
 * Turns for the event loop amid work that waits, but for promises that are settled already: it would hold the loop to
 * its end.
 */
import { setImmediate } from "node:timers/promises";

const longest = 2; // milliseconds between two turns

export class Turns {
  #since = 0;

  /** Waits for a turn if the last one is long ago. */
  async take(): Promise<void> {
    if (performance.now() - this.#since < longest) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
