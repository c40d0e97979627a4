/**
 * What only a memory can do: a key is shown k segments before it is asked for, k drawn from 1 to 8. MRBP over a horizon that spans
 * it must learn it (at least 99 %), zeroing the memory must leave chance, and so must training with horizon 1.
 */
import { Memformer } from "../lib/index.ts";
import { recallAccuracy, type RecallRun, recallModel, trainRecall } from "../test/support/recall-task.ts";
import { flag, report, type Row } from "./support/report.ts";

export async function recall(flags: readonly string[]): Promise<boolean> {
  const run: RecallRun = { lanes: 32, segment: 8, keys: 16, minLag: 1, maxLag: 8 };
  const steps = flag(flags, "steps", 400), rows: Row[] = [];
  for (const horizon of [16, 1]) {
    const began = performance.now();
    await using model = await Memformer.create(recallModel(run));
    // As many segments in all, whatever the horizon.
    await trainRecall(model, run, { horizon, steps: steps * 16 / horizon, rate: 1e-3, warmup: 50, weightDecay: 0.01, schedule: "linear" });
    rows.push({
      horizon, "whole memory": percent(await recallAccuracy(model, run, 200)), "memory zeroed": percent(await recallAccuracy(model, run, 200, true)),
      chance: percent(1 / run.keys), seconds: Math.round((performance.now() - began) / 1000),
    });
  }
  report("recall", "Keys named right, 1 to 8 segments after they were shown", rows, { segments: steps * 16, lanes: run.lanes });
  const [spanning, short] = rows.map((row) => parseFloat(String(row["whole memory"])));
  const zeroed = parseFloat(String(rows[0]!["memory zeroed"]));
  return spanning! >= 99 && zeroed < 12.5 && short! < 25;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
