/** A model's twin: the same, trained without its memory. Its score is what the memory's worth is measured by. */
import { firstDifference } from "../distributed/difference.ts";
import { MemformerError } from "../errors.ts";
import type { Tokenizer } from "../data/index.ts";
import type { Memformer } from "../model/memformer.ts";
import { findModel, openModel } from "../run/run-folder.ts";

/** An open twin, and in what it is none. */
export interface Twin {
  readonly model: Memformer;
  readonly folder: string;
  readonly notes: readonly string[];
}

/** What it is to be the twin of. */
export interface Original {
  readonly model: Memformer;
  readonly tokenizer: Tokenizer;
  readonly folder: string;
  readonly step: number | undefined;
}

/**
 * Opens the twin of `of` in `path`, a model, a checkpoint or a run. Another shape or number of steps is a note. Throws
 * MemformerError CONFIG where either has the wrong side's memory, or the twin another tokenizer; IO.
 */
export async function openTwin(path: string, of: Original, options: Parameters<typeof openModel>[1]): Promise<Twin> {
  if (!of.model.config.memory)
    throw new MemformerError("CONFIG", `--twin needs a model with a memory: ${of.folder} was trained without`);
  const { folder, step } = await findModel(path);
  const { model, tokenizer } = await openModel(folder, options);
  try {
    if (model.config.memory)
      throw new MemformerError("CONFIG", `--twin ${path} was trained with its memory; train the twin with --no-memory`);
    if (tokenizer.name !== of.tokenizer.name)
      throw new MemformerError(
        "CONFIG",
        `--twin ${path} has the tokenizer "${tokenizer.name}", ${of.folder} "${of.tokenizer.name}"`,
      );
  } catch (error) {
    await model.dispose();
    throw error;
  }
  const notes: string[] = [],
    differs = firstDifference({ ...model.config, memory: true }, of.model.config);
  if (differs !== undefined)
    notes.push(`the twin's ${differs.path} is ${String(differs.one)}, the model's ${String(differs.other)}`);
  if (step !== of.step)
    notes.push(`the twin was trained for ${step ?? "unknown"} steps, the model for ${of.step ?? "unknown"}`);
  return { model, folder, notes };
}
