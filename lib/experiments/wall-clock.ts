/** How many steps of training fit into a time: measured once a run, and kept for when the run goes on after a kill. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { median } from "../diagnose/statistics.ts";
import { MemformerError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { makeFolder } from "../files/make-folder.ts";

/** Steps that are timed, and as many before them that are not. */
const TIMED = 6;

/**
 * `seconds` over the median of a few steps, at least 1. `begin` starts a training of its own, whose steps are the
 * seconds that each took; what it holds is freed when the iteration ends.
 */
export async function stepsIn(
  seconds: number,
  checkpoints: string,
  begin: () => AsyncIterable<number>,
): Promise<number> {
  const path = join(checkpoints, "wall-clock.json");
  const kept = await readFile(path, "utf8").catch(() => undefined);
  if (kept !== undefined) {
    const { seconds: asked, steps } = JSON.parse(kept) as { seconds: number; steps: number };
    if (asked === seconds && Number.isSafeInteger(steps)) return steps;
  }
  const times: number[] = [];
  for await (const time of begin()) if (times.push(time) === 2 * TIMED) break;
  if (times.length === 0) throw new MemformerError("DATA", "no step of training could be timed: the text is over");
  const steps = Math.max(1, Math.round(seconds / median(times.slice(times.length >> 1))));
  await makeFolder(checkpoints);
  await writeFileAtomic(path, (handle) => handle.writeFile(JSON.stringify({ seconds, steps })));
  return steps;
}
