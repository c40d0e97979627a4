/** Training inside a run: with checkpoints where it is long, so that a run that was killed goes on where it was. */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { SegmentStream } from "../data/segment-stream.ts";
import { CheckpointStore } from "../checkpoint/store.ts";
import { median } from "../diagnose/statistics.ts";
import { MemformerError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import type { TrainableModel } from "../model/recurrence.ts";
import type { TrainOptions } from "../train/config.ts";
import { Trainer, type TrainStep } from "../train/trainer.ts";
import type { RunContext } from "./experiment.ts";

/** How a training went. */
export interface Trained {
  readonly steps: number;
  readonly tokens: number;
  /** Mean loss of the last tenth of the steps that this process made, nats a token. */
  readonly loss: number;
  /** The middle one of its steps. */
  readonly tokensPerSecond: number;
}

/** A shorter training is begun again. */
const CHECKPOINTS = 10,
  SHORT = 200;

/** What of a run's context a training needs. */
export interface TrainingContext extends Pick<RunContext, "signal" | "note"> {
  /** Undefined: it is not continued. */
  readonly checkpoints: string | undefined;
  /** Steps of the whole, where the training is a stage of another. */
  readonly allSteps?: number;
}

/** A stretch of a training: its own text and options, and an optimizer that starts anew. */
export interface Stage {
  readonly stream: SegmentStream;
  readonly options: TrainOptions & { readonly steps: number };
}

/**
 * Rejects with MemformerError NAN_LOSS, and with ABORTED when the context's signal ends it. `onStep` sees the steps
 * that this process makes.
 */
export async function trained<Model extends TrainableModel>(
  model: Model,
  stream: SegmentStream,
  options: TrainOptions & { readonly steps: number },
  { checkpoints, signal, note, allSteps = options.steps }: TrainingContext,
  onStep?: (step: TrainStep) => void,
): Promise<Trained> {
  const long = checkpoints !== undefined && allSteps >= SHORT;
  using trainer = new Trainer(model, {
    ...options,
    ...(long && { saveEvery: Math.ceil(options.steps / CHECKPOINTS), keep: 1 }),
  });
  const resume = long && (await new CheckpointStore(checkpoints).last()) !== undefined;
  const stop = (): void => {
    trainer.stop();
  };
  if (signal?.aborted === true) throw stopped();
  signal?.addEventListener("abort", stop);
  const losses: number[] = [],
    rates: number[] = [];
  let tokens = 0;
  try {
    for await (const step of trainer.run(stream, { ...(long && { checkpoints, resume }) })) {
      losses.push(step.loss);
      rates.push(step.tokensPerSecond);
      tokens = step.tokens;
      onStep?.(step);
      if (long && step.step % Math.ceil(options.steps / CHECKPOINTS) === 0)
        note(`step ${step.step} of ${options.steps}: loss ${step.loss.toFixed(3)}`);
    }
  } finally {
    signal?.removeEventListener("abort", stop);
  }
  if (trainer.step < options.steps) throw stopped();
  const path = long ? join(checkpoints, "trained.json") : undefined;
  // All steps were made before: the run ended while its model was scored.
  if (losses.length === 0 && path !== undefined) return kept(path);
  const last = losses.slice(-Math.ceil(options.steps / 10));
  const made = {
    steps: trainer.step,
    tokens,
    loss: last.reduce((sum, loss) => sum + loss, 0) / last.length,
    tokensPerSecond: median(rates),
  };
  if (path !== undefined) await writeFileAtomic(path, (handle) => handle.writeFile(JSON.stringify(made)));
  return made;
}

/**
 * Trains `model` by one stage after the other, each as {@link trained} in a folder of its own. A run that was killed
 * goes on in the stage it was in: those before it are over, and give their last checkpoint alone.
 */
export async function trainedInStages(
  model: TrainableModel,
  stages: readonly Stage[],
  context: TrainingContext,
): Promise<void> {
  const { checkpoints, note } = context,
    allSteps = stages.reduce((sum, { options }) => sum + options.steps, 0);
  for (const [i, { stream, options }] of stages.entries()) {
    const folder = checkpoints && stages.length > 1 ? join(checkpoints, `stage-${i + 1}`) : checkpoints;
    if (stages.length > 1) note(`stage ${i + 1} of ${stages.length}`);
    await trained(model, stream, options, { ...context, checkpoints: folder, allSteps });
  }
}

/** What a training gave that was over when its process ended. */
async function kept(path: string): Promise<Trained> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as Trained;
  } catch (cause) {
    throw new MemformerError(
      "DATA",
      `the training of ${dirname(path)} is over, but what it gave was not written down: delete that folder to make it anew`,
      { details: { path }, cause },
    );
  }
}

function stopped(): MemformerError {
  return new MemformerError("ABORTED", "the run was stopped");
}
