/** Short training runs on a small task, and what is left of them. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Memformer,
  RecallStream,
  Trainer,
  type CreateOptions,
  type RunOptions,
  type TrainOptions,
  type TrainStep,
} from "../../lib/index.ts";

process.env["OMP_WAIT_POLICY"] ??= "passive"; // see models.ts

/** A model that fits {@link task}. */
export async function runModel(options: CreateOptions = {}): Promise<Memformer> {
  return Memformer.create({
    preset: "tiny",
    vocabulary: 18,
    bos: 17,
    width: 16,
    heads: 2,
    feedForward: 32,
    memorySlots: 4,
    segmentLength: 8,
    ...options,
  });
}

export function task(lanes = 4, seed = 1): RecallStream {
  return new RecallStream({ lanes, segmentLength: 8, keys: 4, fillers: 12, maxLag: 2, seed });
}

export interface Run {
  readonly steps: TrainStep[];
  readonly trainer: Trainer;
}

export async function train(
  model: Memformer,
  options: TrainOptions,
  how: RunOptions = {},
  stream = task(),
): Promise<Run> {
  const trainer = new Trainer(model, options),
    steps: TrainStep[] = [];
  for await (const step of trainer.run(stream, how)) steps.push(step);
  return { steps, trainer };
}

/** The files of a checkpoint, as text to compare. */
export async function contents(folder: string, names: readonly string[]): Promise<string[]> {
  return Promise.all(names.map(async (name) => (await readFile(join(folder, name))).toString("hex")));
}

export async function weights(model: Memformer): Promise<Map<string, string>> {
  const all = new Map<string, string>();
  for (const { name } of model.parameters) {
    using tensor = model.parameter(name);
    all.set(name, Buffer.from((await tensor.read()).data).toString("hex"));
  }
  return all;
}

export async function temporary(): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), "memformer-run-"));
  return { path, remove: async () => rm(path, { recursive: true, force: true }) };
}
