/** Notes for a run that resumes: what has changed, and what is unknown. */
import { formatNumber } from "../log/format.ts";
import { learningRateAt } from "../train/schedule.ts";
import { olderTraining, trainSchema, type TrainConfig } from "../train/config.ts";
import { flagName } from "./flags.ts";
import type { RunIdentity } from "./identity.ts";

/** Notes for a run that continues after step `start`; `had`: the options of training that its `run.json` holds. */
export function resumeNotes(start: number, before: RunIdentity | undefined, had: object, has: TrainConfig): string[] {
  const notes: string[] = [];
  if (before?.splits === undefined) {
    notes.push(
      "this run does not record its training text (memformer 0.1 started it), so whether it is still the same is unknown",
    );
  }
  const keys = ["steps", "learningRate", "schedule", "warmup", "finalLearningRate"] as const;
  const earlier = trainSchema.parse({ ...olderTraining, ...had });
  const changed = keys.filter((key) => earlier[key] !== has[key]);
  if (changed.length > 0) {
    const [old, next] = [learningRateAt(start + 1, earlier), learningRateAt(start + 1, has)].map((rate) =>
      formatNumber(rate, 3),
    );
    const words = changed.map((key) => `${flagName(key)} was ${earlier[key]} and is ${has[key]}`).join(", ");
    notes.push(
      `${words}: the learning rate of step ${start + 1} is ${next}${old === next ? ", as before" : ` instead of ${old}`}`,
    );
  }
  return notes;
}
