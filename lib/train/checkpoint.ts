/** What a training run needs to go on to the bit: weights, optimizer, carried memory, the stream's position. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FileWriter } from "../files/atomic.ts";
import { verify, type CheckpointStore } from "../checkpoint/folder.ts";
import type { TokenizerTexts } from "../checkpoint/model-folder.ts";
import { openSafetensors, writeSafetensors } from "../checkpoint/safetensors.ts";
import type { SegmentStream } from "../data/segment-stream.ts";
import { MemformerError } from "../errors.ts";
import {
  assignAll,
  engineEntry,
  expectConfig,
  expectTensors,
  masterType,
  modelWriters,
  readModelFolder,
  readTensor,
} from "../model/files.ts";
import type { Memformer } from "../model/memformer.ts";
import type { AdamW } from "./optimizer.ts";
import type { State } from "../model/recurrence.ts";
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
  readonly model: Memformer;
  readonly optimizer: AdamW;
  readonly state: State;
  readonly progress: TrainProgress;
  readonly tokenizer: TokenizerTexts;
}

/** The writers of a checkpoint's files, for {@link CheckpointStore.write}. */
export function checkpointFiles({
  model,
  optimizer,
  state,
  progress,
  tokenizer,
}: TrainParts): Record<string, FileWriter> {
  return {
    ...modelWriters(model, tokenizer),
    "optimizer.safetensors": async (path) => writeSafetensors(path, optimizer.entries()),
    "state.safetensors": async (path) => {
      const dtype = masterType(model.config);
      const entries = await Promise.all(
        state.map(async (tensor, i) => {
          const { shape } = await tensor.read();
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
  model: Memformer,
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
  const progress = JSON.parse(await readFile(join(folder, "trainer.json"), "utf8")) as TrainProgress;
  const { config, weights } = await readModelFolder(folder);
  const moments = await openSafetensors(join(folder, "optimizer.safetensors"));
  const memories = await openSafetensors(join(folder, "state.safetensors"));
  try {
    expectConfig(folder, config, model.config);
    expectTensors("model", model.parameters, weights);
    expectTensors("optimizer", optimizer.tensors, moments);
    const lanes = memories.entry("state.0").shape[0];
    if (lanes !== stream.lanes) {
      throw new MemformerError(
        "CHECKPOINT_MISMATCH",
        `${folder} was trained on ${lanes} lanes, the stream has ${stream.lanes}`,
      );
    }
    stream.seek(progress.position);
    await assignAll("model", model.parameters, weights, (name, value) => {
      model.assign(name, value);
    });
    await assignAll("optimizer", optimizer.tensors, moments, (name, value) => {
      optimizer.assign(name, value);
    });
    return {
      state: await Promise.all([...memories.names].sort().map(async (name) => readTensor(memories, name))),
      progress,
    };
  } finally {
    await Promise.all([weights.close(), moments.close(), memories.close()]);
  }
}
