/** What a run that goes on is told: what is another than before, and what is not known. */
import { formatNumber } from "../log/format.ts";
import { learningRate } from "../train/schedule.ts";
import { trainSchema, type TrainConfig } from "../train/config.ts";
import { flagName } from "./flags.ts";
import type { RunIdentity } from "./identity.ts";

/** Sentences for a run that goes on after step `start`; `had`: the options of training that its `run.json` holds. */
export function resumeNotes(start: number, before: RunIdentity | undefined, had: object, has: TrainConfig): string[] {
  const notes: string[] = [];
  if (before?.splits === undefined) {
    notes.push(
      "this run did not note what text it is trained on (memformer 0.1 began it): whether that is still the same is not known",
    );
  }
  const keys = ["steps", "rate", "schedule", "warmup", "finalRate"] as const;
  const earlier = trainSchema.parse(had);
  const changed = keys.filter((key) => earlier[key] !== has[key]);
  if (changed.length > 0) {
    const [old, next] = [learningRate(start + 1, earlier), learningRate(start + 1, has)].map((rate) =>
      formatNumber(rate, 3),
    );
    const words = changed.map((key) => `${flagName(key)} was ${earlier[key]} and is ${has[key]}`).join(", ");
    notes.push(
      `${words}: the learning rate of step ${start + 1} is ${next}${old === next ? ", as before" : ` instead of ${old}`}`,
    );
  }
  return notes;
}
