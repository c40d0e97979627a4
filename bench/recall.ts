/**
 * What only a memory can do: a key is shown k segments before it is asked for, k drawn from 1 to 8. MRBP over a horizon
 * that spans it must learn it (at least 99 %), zeroing the memory must leave chance, and so must training with horizon
 * 1.
 *   npm run bench -- recall [--steps 400] [--variants default,plain] [--seeds 0,1,2,3,4] [--train-lag 8] [--lags
 *   8,16,32,64]
 * With `--lags`: how far beyond the lags it was trained on a memory carries, for each variant of
 * bench/worth/variants.ts and seed; the first variant must name 99 % right at four times its greatest training lag,
 * with every seed.
 */
import { Memformer, type TrainOptions } from "../lib/index.ts";
import { recallAccuracy, type RecallRun, recallModel, trainRecall } from "./support/recall-task.ts";
import { flag, report, type Row, words } from "./support/report.ts";
import { optionsOf } from "./worth/variants.ts";

const run: RecallRun = { lanes: 32, segmentLength: 8, keys: 16, minLag: 1, maxLag: 8 };
const training: TrainOptions = { learningRate: 1e-3, warmup: 50, weightDecay: 0.01, schedule: "linear" };
const HORIZON = 16;

export async function recall(flags: readonly string[]): Promise<boolean> {
  return flags.includes("--lags") ? await reach(flags) : await learned(flag(flags, "steps", 400));
}

async function learned(steps: number): Promise<boolean> {
  const rows: Row[] = [];
  for (const horizon of [HORIZON, 1]) {
    const began = performance.now();
    await using model = await Memformer.create(recallModel(run));
    // As many segments in all, whatever the horizon.
    await trainRecall(model, run, { ...training, horizon, steps: (steps * HORIZON) / horizon });
    rows.push({
      horizon,
      "whole memory": percent(await recallAccuracy(model, run, 200)),
      "memory zeroed": percent(await recallAccuracy(model, run, 200, true)),
      chance: percent(1 / run.keys),
      seconds: Math.round((performance.now() - began) / 1000),
    });
  }
  report("recall", "Keys named right, 1 to 8 segments after they were shown", rows, {
    segments: steps * HORIZON,
    lanes: run.lanes,
  });
  const [spanning, short] = rows.map((row) => parseFloat(String(row["whole memory"])));
  const zeroed = parseFloat(String(rows[0]!["memory zeroed"]));
  return spanning! >= 99 && zeroed < 12.5 && short! < 25;
}

async function reach(flags: readonly string[]): Promise<boolean> {
  const numbers = (name: string, fallback: string): number[] => words(flags, name, fallback.split(",")).map(Number);
  const lags = numbers("lags", "8,16,32,64"),
    seeds = numbers("seeds", "0,1,2,3,4"),
    variants = words(flags, "variants", ["default"]);
  const steps = flag(flags, "steps", 400),
    [name = ""] = words(flags, "name", ["recall-lags"]),
    task = { ...run, maxLag: flag(flags, "train-lag", run.maxLag) };
  const rows: Row[] = [];
  let kept = true;
  for (const variant of variants)
    for (const seed of seeds) {
      const began = performance.now(),
        options = optionsOf(variant);
      await using model = await Memformer.create({ ...recallModel(task), ...options.model, seed });
      await trainRecall(model, task, { ...training, horizon: HORIZON, ...options.train, steps });
      const shares: [number, number][] = [];
      for (const lag of lags)
        shares.push([lag, await recallAccuracy(model, { ...task, minLag: lag, maxLag: lag }, 6 * (lag + 1))]);
      rows.push({
        variant,
        seed,
        ...Object.fromEntries(shares.map(([lag, share]) => [`lag ${lag}`, percent(share)])),
        seconds: Math.round((performance.now() - began) / 1000),
      });
      console.log(JSON.stringify(rows.at(-1)));
      if (variant === variants[0]) kept &&= shares.every(([lag, share]) => lag > 4 * task.maxLag || share >= 0.99);
    }
  report(
    name,
    `Keys named right so many segments after they were shown, trained on lags of 1 to ${task.maxLag}`,
    rows,
    { steps, horizon: HORIZON },
  );
  return kept;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
