/**
 * How far beyond the lags of its training a memory carries, by variant of lib/experiments/worth/variants.ts and seed,
 * on the task of `memformer experiment recall`; the first variant must name 99 % right at four times its greatest
 * training lag, with every seed.
 *   npm run bench -- recall [--lags 8,16,32,64] [--variants default,plain] [--steps 400] [--seeds 0,1,2,3,4]
 *   [--train-lag 8] [--horizon 16] [--earlier LAG:HORIZON:STEPS,...] [--name recall-lags]
 * `--earlier` are stages of training before the one that `--train-lag`, `--horizon` and `--steps` name.
 */
import { Memformer } from "../lib/index.ts";
import {
  recallAccuracy,
  recallModel,
  type RecallRun,
  type RecallStage,
  trainRecall,
} from "../lib/experiments/recall-task.ts";
import { percent } from "../lib/experiments/report/table.ts";
import { flag, report, type Row, words } from "./support/report.ts";
import { optionsOf } from "../lib/experiments/worth/variants.ts";

const run: RecallRun = { lanes: 32, segmentLength: 8, keys: 16, minLag: 1, maxLag: 8 };

export async function recall(flags: readonly string[]): Promise<boolean> {
  const numbers = (name: string, fallback: string): number[] => words(flags, name, fallback.split(",")).map(Number);
  const lags = numbers("lags", "8,16,32,64"),
    seeds = numbers("seeds", "0,1,2,3,4"),
    variants = words(flags, "variants", ["default"]);
  const steps = flag(flags, "steps", 400),
    horizon = flag(flags, "horizon", 16),
    [name = ""] = words(flags, "name", ["recall-lags"]),
    task = { ...run, maxLag: flag(flags, "train-lag", run.maxLag) },
    earlier = words(flags, "earlier", []),
    stages = [...earlier.map(stageOf), { trainLag: task.maxLag, horizon, steps }];
  const rows: Row[] = [];
  let kept = true;
  for (const variant of variants)
    for (const seed of seeds) {
      const began = performance.now(),
        options = optionsOf(variant);
      await using model = await Memformer.create({ ...recallModel(task), ...options.model, seed });
      await trainRecall(model, task, stages, options.train);
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
    { ...(earlier.length > 0 && { earlier: earlier.join(",") }), steps, horizon },
  );
  return kept;
}

/** `8:16:400`: lags up to 8, a horizon of 16, 400 steps. */
function stageOf(text: string): RecallStage {
  const [trainLag = 0, horizon = 0, steps = 0, ...more] = text.split(":").map(Number);
  if (more.length > 0 || ![trainLag, horizon, steps].every((number) => Number.isSafeInteger(number) && number > 0))
    throw new TypeError(`--earlier needs stages as LAG:HORIZON:STEPS, separated by commas, got "${text}"`);
  return { trainLag, horizon, steps };
}
