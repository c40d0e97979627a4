/** A model trained on a task: a document a window, and the loss of answers' segments alone. */
import { Memformer, type CreateOptions } from "../../model/memformer.ts";
import type { ModelOptions } from "../../model/config.ts";
import type { Json, RunContext } from "../experiment.ts";
import { trained, type Trained } from "../training.ts";
import { TaskStream, type Task } from "./task.ts";

/** All that decides the weights, beside the task. */
export interface TaskSettings {
  /** The model's name in the report. */
  readonly name: string;
  readonly model: { readonly [option in keyof ModelOptions]?: Json };
  readonly lanes: number;
  readonly steps: number;
  readonly rate: number;
  readonly seed: number;
}

/** Seeds of documents: to train on, and for tests, which no training sees. */
const TRAINING = 1;
export const UNSEEN = 2;

/** The trained model, which the caller disposes of. Rejects as {@link trained} does. */
export async function taskModel(
  { model: options, lanes, steps, rate, seed }: TaskSettings,
  task: Task,
  context: RunContext,
): Promise<{ readonly model: Memformer; readonly trained: Trained }> {
  const { vocabulary, bos, segmentLength, answering } = task;
  const model = await Memformer.create({
    ...(options as CreateOptions),
    vocabulary,
    bos,
    segmentLength,
    seed,
    device: context.device,
  });
  try {
    const train = {
      steps,
      horizon: answering.length,
      weights: answering.map(Number),
      learningRate: rate,
      warmup: Math.min(100, Math.ceil(steps / 10)),
      weightDecay: 0.01,
      schedule: "linear" as const,
      seed,
    };
    return { model, trained: await trained(model, new TaskStream(task, lanes, TRAINING), train, context) };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}
