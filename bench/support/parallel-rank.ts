/**
 * One rank of `npm run bench -- parallel`: trains as its first argument says, once for each number of lanes, and rank 0
 * prints a `ParallelTimes` for each.
 */
import {
  distributed,
  Memformer,
  RecallStream,
  synchronize,
  Tensor,
  Trainer,
  type CreateOptions,
  type TrainOptions,
} from "../../lib/index.ts";
import { median } from "./report.ts";

export interface ParallelJob {
  readonly model: CreateOptions;
  readonly horizon: number;
  /** Of all ranks together, one training after another. */
  readonly lanes: readonly number[];
  readonly warmup: number;
  readonly steps: number;
  readonly gpus: boolean;
  readonly shardOptimizer: boolean;
}

export interface ParallelTimes {
  /** Of a step, and of the sum of as many numbers as the model has parameters: the middle of several. */
  readonly step: number;
  readonly reduction: number;
  /** The shortest such sum, and the shortest of one number. */
  readonly shortest: { readonly reduction: number; readonly latency: number };
  readonly tokensPerStep: number;
  readonly parameters: number;
}

const {
  model: shape,
  horizon,
  lanes,
  warmup,
  steps,
  gpus,
  shardOptimizer,
} = JSON.parse(process.argv[2]!) as ParallelJob;
await using group = await distributed.join({ device: gpus ? "cuda" : "cpu" });
const times: ParallelTimes[] = [];
for (const each of lanes) times.push(await timesOf(each));
if (group.rank === 0) process.stdout.write(`${JSON.stringify(times)}\n`);

/** What a training with so many lanes in all takes. */
async function timesOf(total: number): Promise<ParallelTimes> {
  await using model = await Memformer.create({
    ...shape,
    ...(gpus && { precision: "bfloat16" }),
    device: group.device,
  });
  const { vocabulary, segmentLength } = model.config;
  const stream = new RecallStream({
    lanes: total,
    segmentLength,
    keys: 64,
    fillers: Math.min(512, vocabulary - 256),
    maxLag: 2,
    seed: 1,
  });
  const options: TrainOptions = { steps: warmup + steps, horizon, schedule: "constant", warmup: 0, shardOptimizer };
  const seconds: number[] = [];
  let before = performance.now();
  for await (const step of new Trainer(model, options, { group }).run(stream)) {
    const now = performance.now();
    if (step.step > warmup) seconds.push((now - before) / 1000);
    before = now;
  }
  const [reductions, latencies] = [await reductionsOf(model.parameterCount), await reductionsOf(1)];
  return {
    step: median(seconds),
    reduction: median(reductions),
    shortest: { reduction: Math.min(...reductions), latency: Math.min(...latencies) },
    tokensPerStep: total * segmentLength * horizon,
    parameters: model.parameterCount,
  };
}

/** Seconds of sums of so many numbers. */
async function reductionsOf(count: number): Promise<number[]> {
  const seconds: number[] = [];
  using host = Tensor.from(new Float32Array(count), [count]);
  using numbers = group.allReduce(host); // on the group's device
  for (let i = 0; i < 15; i++) {
    await group.barrier("the start of a reduction");
    const start = performance.now();
    using sum = group.allReduce(numbers);
    await synchronize();
    sum.dispose();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds;
}
