import { setImmediate as turn } from "node:timers/promises";
import { memoryUsage, synchronize, Tensor } from "../../lib/index.ts";

/** What is in use once nothing is left that only waits to be collected. For tests that count bytes to the last one. */
export async function memoryAtRest(): Promise<ReturnType<typeof memoryUsage>> {
  // The stacks of the last 1,024 calls hold on to what their frames saw.
  const one = Tensor.from(Float32Array.of(1), [1]);
  for (let i = 0; i < 1024; i++) one.detach().dispose();
  one.dispose();
  // What earlier tests left to the garbage collector goes over several turns.
  for (let i = 0; i < 10; i++) {
    globalThis.gc?.();
    await turn();
  }
  await synchronize();
  return memoryUsage();
}
