/** A model trained on a task, and what it answers with its state and without. */
import type { RunContext } from "../experiment.ts";
import { taskAccuracy } from "./accuracy.ts";
import type { Task } from "./task.ts";
import { taskModel, UNSEEN, type TaskSettings } from "./train.ts";

/** Shares of tokens, 0 to 1. */
export interface TaskAnswers {
  readonly accuracy: number;
  /** From the learned start in place of the state. */
  readonly forgotten: number;
  readonly stateBytes: number;
  readonly parameters: number;
}

/** Trains as `settings` say and asks `documents` unseen ones of each lane. Rejects with the signal's reason. */
export async function taskAnswers(
  settings: TaskSettings & { readonly documents: number },
  task: Task,
  context: RunContext,
): Promise<TaskAnswers> {
  const { lanes, documents } = settings;
  const { model: made } = await taskModel(settings, task, context);
  await using model = made;
  const accuracy = async (forgotten: boolean): Promise<number> =>
    (await taskAccuracy(model, task, { lanes, documents, seed: UNSEEN, forgotten, signal: context.signal })).tokens;
  return {
    accuracy: await accuracy(false),
    forgotten: await accuracy(true),
    stateBytes: model.config.memory ? model.stateBytes : 0,
    parameters: model.parameterCount,
  };
}
