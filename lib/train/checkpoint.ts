/** What a training run needs to go on to the bit: weights, optimizer, carried memory, the stream's position. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FileWriter } from "../files/atomic.ts";
import { verify, type CheckpointStore } from "../checkpoint/store.ts";
import { openWeights, type TokenizerTexts } from "../checkpoint/model-files.ts";
import { openSafetensors, writeSafetensors, type SafetensorsFile } from "../checkpoint/safetensors.ts";
import type { SegmentStream } from "../data/segment-stream.ts";
import { MemformerError } from "../errors.ts";
import { withNewNames } from "../old-names.ts";
import {
  assignAll,
  describedIn,
  engineEntry,
  expectConfig,
  expectTensors,
  modelWriters,
  readTensor,
} from "../model/weights-files.ts";
import type { AdamW } from "./optimizer.ts";
import type { State, StatePart, TrainableModel } from "../model/recurrence.ts";
import type { TrainConfig } from "./config.ts";

/** What a checkpoint knows beside tensors: `trainer.json`. */
export interface TrainProgress {
  readonly step: number;
  readonly tokens: number;
  /** The lowest evaluation so far. */
  readonly best: number | null;
  /** Where the stream continues. */
  readonly position: unknown;
  readonly train: TrainConfig;
}

export interface TrainParts {
  readonly model: TrainableModel;
  readonly optimizer: AdamW;
  /** How one of the optimizer's tensors is read, where it is not all here. */
  readonly moments?: ((name: string) => Promise<Uint8Array>) | undefined;
  readonly state: State;
  readonly progress: TrainProgress;
  readonly tokenizer: TokenizerTexts;
}

/** The writers of a checkpoint's files, for {@link CheckpointStore.write}. */
export function checkpointFiles({
  model,
  optimizer,
  moments,
  state,
  progress,
  tokenizer,
}: TrainParts): Record<string, FileWriter> {
  return {
    ...modelWriters(model, tokenizer),
    "optimizer.safetensors": async (path) => writeSafetensors(path, optimizer.entries(moments)),
    "state.safetensors": async (path) => {
      const entries = await Promise.all(
        state.map(async (tensor, i) => {
          const { shape, dtype } = await tensor.read();
          return engineEntry(`state.${i}`, dtype, shape, () => tensor.detach());
        }),
      );
      await writeSafetensors(path, entries);
    },
    "trainer.json": async (path) => writeFile(path, `${JSON.stringify(progress, null, 2)}\n`),
  };
}

/**
 * Puts the last checkpoint of `store` into model, optimizer and stream. Everything is checked before anything is
 * copied: throws MemformerError IO when there is none, CHECKPOINT_FORMAT for a damaged one, CHECKPOINT_MISMATCH for one
 * of another model or stream.
 */
export async function readCheckpoint(
  store: CheckpointStore | undefined,
  model: TrainableModel,
  optimizer: AdamW,
  stream: SegmentStream,
): Promise<{ state: State; progress: TrainProgress }> {
  const folder = await store?.last();
  if (store === undefined || folder === undefined) {
    throw new MemformerError(
      "IO",
      `there is no checkpoint to resume from${store === undefined ? ": name their folder in `checkpoints`" : ` in ${store.root}`}`,
    );
  }
  await verify(folder);
  const written = JSON.parse(await readFile(join(folder, "trainer.json"), "utf8")) as TrainProgress,
    progress = { ...written, train: withNewNames(written.train) };
  const found = await describedIn(folder, (config, file) => model.readDescription?.(config, file) ?? config);
  const weights = await openWeights(folder);
  const moments = await openSafetensors(join(folder, "optimizer.safetensors"));
  const memories = await openSafetensors(join(folder, "state.safetensors"));
  try {
    expectConfig(folder, found, model.config);
    expectTensors("model", model.parameters, weights);
    expectTensors("optimizer", optimizer.tensors, moments);
    expectState(folder, memories, model.stateLayout, stream.lanes);
    stream.seek(progress.position);
    await assignAll("model", model.parameters, weights, (name, value) => {
      model.assign(name, value);
    });
    await assignAll("optimizer", optimizer.tensors, moments, (name, value) => {
      optimizer.assign(name, value);
    });
    return {
      state: await Promise.all(model.stateLayout.map(async (_, i) => readTensor(memories, `state.${i}`))),
      progress,
    };
  } finally {
    await Promise.all([weights.close(), moments.close(), memories.close()]);
  }
}

/** Throws MemformerError CHECKPOINT_MISMATCH unless the file holds the layout's parts, for so many lanes. */
function expectState(folder: string, file: SafetensorsFile, layout: readonly StatePart[], lanes: number): void {
  const refuse = (sentence: string): never => {
    throw new MemformerError("CHECKPOINT_MISMATCH", `${folder} ${sentence}`, { details: { path: file.path } });
  };
  if (file.names.length !== layout.length)
    refuse(`holds a state of ${file.names.length} part(s), the model's has ${layout.length}`);
  for (const [i, { name, shape, dtype }] of layout.entries()) {
    const part = `state.${i}`;
    if (!file.names.includes(part)) refuse(`lacks "${part}", the state's ${name}`);
    const [rows, ...sizes] = file.entry(part).shape,
      found = file.entry(part).dtype;
    if (rows !== lanes) refuse(`was trained on ${rows} lanes, the stream has ${lanes}`);
    if (sizes.join() !== shape.join())
      refuse(`holds a row of ${name} as [${sizes.join(", ")}], expected [${shape.join(", ")}]`);
    if (found !== dtype) refuse(`holds ${name} as ${found}, expected ${dtype}`);
  }
}
