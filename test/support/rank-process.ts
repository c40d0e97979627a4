/**
 * One rank of several: joins, then trains as its first argument says, a JSON {@link RankJob}, and prints a JSON line
 * per step, and at last its weights' hash or its error. Run by `startRanks`.
 */
import {
  distributed,
  isMemformerError,
  Memformer,
  memoryUsage,
  synchronize,
  Tensor,
  Trainer,
} from "../../lib/index.ts";
import { evaluateSource } from "../../lib/evaluate/source.ts";
import { GatheredMoments } from "../../lib/train/gathered-moments.ts";
import { enqueueGradient } from "../../lib/train/step.ts";
import { WindowReader } from "../../lib/train/window-reader.ts";
import { lanesOf, streamOfLanes } from "../../lib/distributed/share.ts";
import { weightsHash } from "../../lib/model/weights-hash.ts";
import type { Group } from "../../lib/distributed/group.ts";
import type { DeviceName } from "../../lib/native/cuda.ts";
import { perturb } from "./models.ts";
import { ragged, raggedStream, type EvaluationJob, type RankJob } from "./ranks.ts";

const job = JSON.parse(process.argv[2]!) as RankJob;
let device: DeviceName = job.gpus === true ? "cuda" : "cpu";

function tell(line: unknown): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** The gradient of three steps' windows, reduced at the end: every number of every parameter. */
async function gradient(model: Memformer, group: Group | undefined): Promise<void> {
  const { config } = new Trainer(model, job.train);
  const stream = raggedStream(job.lanes),
    lanes = lanesOf(job.lanes, group?.rank ?? 0, group?.world ?? 1);
  const reader = new WindowReader(group === undefined ? stream : streamOfLanes(stream, lanes), config.horizon, 0);
  let state = model.initialState(lanes.count);
  for (let step = 1; step <= 3; step++) {
    const windows = [(await reader.next())!, (await reader.next())!];
    const ranks = group === undefined ? undefined : { group, lanes };
    const made = enqueueGradient(model, state, { config, step, windows, overlap: 0, signal: undefined, ranks });
    if (step === 3) group?.reduceGradients(model.held, made.losses);
    state = made.state;
  }
  const numbers: Record<string, string> = {};
  for (const { name } of model.parameters)
    numbers[name] = Buffer.from((await model.gradient(name).read()).data).toString("base64");
  tell({ gradient: numbers });
}

async function train(model: Memformer, group: Group | undefined): Promise<void> {
  if (job.part !== undefined) GatheredMoments.part = job.part;
  const trainer = new Trainer(model, job.train, { group });
  const run = trainer.run(raggedStream(job.lanes), {
    ...(job.checkpoints !== undefined && { checkpoints: job.checkpoints }),
    ...(job.resume !== undefined && { resume: job.resume }),
    ...(job.evaluates === true && {
      evaluate: async (_model, step) => {
        if (job.evaluationFails === (group?.rank ?? 0)) throw new Error("no text");
        return Promise.resolve(1 / step);
      },
    }),
  });
  for await (const { step, loss, gradientNorm, memoryGradientNorm, tokens } of run) {
    tell({ step, loss, gradientNorm, memoryGradientNorm, tokens });
    if (job.stopAt?.rank === (group?.rank ?? 0) && job.stopAt.step === step) trainer.stop();
    if (job.spoilAt?.rank === group?.rank && job.spoilAt?.step === step) await perturb(model);
  }
  const weights = await weightsHash(model);
  for (let i = 0; i < 3; i++) {
    await synchronize();
    globalThis.gc!(); // of what has been read
  }
  const { hostBytes } = memoryUsage();
  tell({ weights, step: trainer.step, hostBytes, parameters: model.parameterCount });
}

/** Scores the ragged text, all ablations included, by a model for each of the job's evaluations. */
async function evaluations(asked: readonly EvaluationJob[], group: Group | undefined): Promise<void> {
  const found = [];
  for (const { model: options, segments, spoiled } of asked) {
    await using model = await Memformer.create({ ...options, device });
    await perturb(model);
    if (spoiled !== undefined && spoiled === group?.rank) {
      const { name, shape } = model.parameters[0]!;
      using numbers = Tensor.from(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(NaN), shape);
      model.assign(name, numbers);
    }
    found.push(await evaluateSource(model, ragged, { lanes: job.lanes, segments, group }));
  }
  tell({ evaluations: found });
}

let group: Group | undefined;
try {
  if (job.alone !== true) group = await distributed.join({ device, ...job.join });
  device = group?.device ?? device;
  await using model = await Memformer.create({ ...job.model, device });
  if (job.evaluations !== undefined) await evaluations(job.evaluations, group);
  else if (job.gradient === true) {
    await perturb(model);
    await gradient(model, group);
  } else await train(model, group);
  await group?.leave();
} catch (error) {
  const { message, code, details } = error as { message: string; code?: string; details?: unknown };
  tell({ error: { message, code, details, known: isMemformerError(error) } });
  process.exit(1);
}
