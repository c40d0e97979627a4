/** The settings of a run, and which of them a resumed one keeps. */
import { join, resolve } from "node:path";
import { plainOptions } from "../model/config.ts";
import { olderTraining } from "../train/config.ts";
import { datasetNames } from "../data/index.ts";
import { MemformerError } from "../errors.ts";
import { RUN } from "./run-folder.ts";
import { flagName } from "./flags.ts";
import {
  fromFile,
  fromFlags,
  runSchema,
  mergeSettings,
  shapeSchema,
  type PartialRunConfig,
  type RunSettings,
} from "./config.ts";

/** Flags win over the file, and with `resume` both over what the run has had so far. Throws CHECKPOINT_MISMATCH. */
export async function runSettings(
  file: string | undefined,
  flags: Record<string, unknown>,
  resume: boolean,
): Promise<RunSettings> {
  const given = [...(file === undefined ? [] : [await fromFile(file)]), fromFlags(flags)];
  if (!resume) return mergeSettings(...given);
  const out = runSchema.shape.out.parse(given.map(({ run }) => run["out"]).findLast((value) => value !== undefined));
  const written = await fromFile(join(out, RUN));
  // A run older than an option.
  const before = {
    ...written,
    run: { ...runOptions, ...written.run },
    model: { ...plainOptions, ...written.model },
    train: { ...olderTraining, ...written.train },
  };
  const settled = mergeSettings(before, ...given);
  refuseChanges(out, settled, before);
  return settled;
}

/** Options of a run that came later than some runs, with the values that these had: they are not in their run.json. */
const runOptions = { ends: false, infilling: 0, recallPrevious: 0 };

/** Options that resuming must not change: they decide what was learned so far and where the stream stands. */
const fixed = {
  run: [
    "data",
    "tokenizer",
    "lanes",
    "documents",
    "field",
    "documentLimit",
    "ends",
    "infilling",
    "recallPrevious",
    "skipEmpty",
    "heldOut",
  ],
  model: Object.keys(shapeSchema.shape),
  train: ["seed"],
} as const satisfies Record<keyof PartialRunConfig, readonly string[]>;

/** Files are the same wherever a command is run: a run keeps their absolute paths. */
function placed(key: string, value: unknown): unknown {
  if (typeof value !== "string") return value;
  return key === "data" ? absoluteData(value) : key === "tokenizer" ? absoluteTokenizer(value) : value;
}

/** Settings as `run.json` holds them: paths are absolute, so that another working folder finds the same files. */
export function placedSettings({ run, ...others }: PartialRunConfig): PartialRunConfig {
  return { run: Object.fromEntries(Object.entries(run).map(([key, value]) => [key, placed(key, value)])), ...others };
}

function absoluteTokenizer(spec: string): string {
  return spec.endsWith(".json") || spec.includes("/") ? resolve(spec) : spec;
}

function absoluteData(spec: string): string {
  const colon = spec.indexOf(":");
  const known = (datasetNames as readonly string[]).includes(colon < 0 ? spec : spec.slice(0, colon));
  if (!known) return resolve(spec);
  return colon < 0 || colon === spec.length - 1 ? spec : `${spec.slice(0, colon)}:${resolve(spec.slice(colon + 1))}`;
}

function refuseChanges(out: string, now: PartialRunConfig, before: PartialRunConfig): void {
  for (const section of ["run", "model", "train"] as const) {
    for (const key of fixed[section]) {
      const [found, wanted] = [placed(key, now[section][key]), placed(key, before[section][key])];
      if (JSON.stringify(found) === JSON.stringify(wanted)) continue;
      throw new MemformerError(
        "CHECKPOINT_MISMATCH",
        `the run in ${out} has ${flagName(key)} ${shown(wanted)}, which cannot change to ${shown(found)} when it resumes`,
        { details: { out, option: key } },
      );
    }
  }
}

function shown(value: unknown): string {
  return value === undefined ? "by default" : typeof value === "string" ? value : JSON.stringify(value);
}
