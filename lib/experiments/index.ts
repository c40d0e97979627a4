/** The experiments by name: one file each, and its line here. */
import { didYouMean, MemformerError } from "../errors.ts";
import { attention } from "./attention.ts";
import { babilong } from "./babilong.ts";
import { cost } from "./cost.ts";
import type { Experiment } from "./experiment.ts";
import { horizon } from "./horizon.ts";
import { listops } from "./listops.ts";
import { mnist } from "./mnist.ts";
import { mqar } from "./mqar.ts";
import { mrbp } from "./mrbp.ts";
import { multitask } from "./multitask.ts";
import { position } from "./position.ts";
import { rates } from "./rates.ts";
import { recall } from "./recall.ts";
import { slots } from "./slots.ts";
import { wiki } from "./wiki.ts";
import { worth } from "./worth.ts";

export const experiments: readonly Experiment[] = [
  recall,
  mrbp,
  cost,
  mnist,
  rates,
  wiki,
  worth,
  horizon,
  multitask,
  position,
  mqar,
  listops,
  babilong,
  slots,
  attention,
];

/** The experiment of that name. Throws MemformerError CONFIG, naming the nearest. */
export function experimentOf(name: string): Experiment {
  const found = experiments.find((experiment) => experiment.name === name);
  if (found !== undefined) return found;
  const names = experiments.map((experiment) => experiment.name);
  throw new MemformerError(
    "CONFIG",
    `there is no experiment "${name}"${didYouMean(name, names)} (known: ${names.join(", ")})`,
    { details: { name, known: names } },
  );
}
