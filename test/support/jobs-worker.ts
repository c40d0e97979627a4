/** A process of test/experiments.jobs.spec.ts: what it does with a run is the run's name. */
import { setTimeout as sleep } from "node:timers/promises";
import { serveOrders } from "../../lib/experiments/jobs.ts";
import { MemformerError } from "../../lib/errors.ts";

serveOrders<string, string>(async (run, { device }, signal, note) => {
  note(`begins ${run}`);
  if (run === "refuses") throw new MemformerError("DATA", "no such text");
  if (run === "dies") process.exit(3);
  if (run === "waits") {
    while (!signal.aborted) await sleep(5);
    return undefined;
  }
  if (run === "reads") {
    for (;;) {
      signal.throwIfAborted(); // as an evaluation does
      await sleep(5);
    }
  }
  return `${run} on ${device} in ${process.pid}`;
});
