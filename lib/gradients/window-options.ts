/** The check of a window's options, cheap enough for every step. */
import { MemformerError } from "../errors.ts";
import { knownOptions, optionNames, wholeSeed } from "../options.ts";
import type { WindowOptions } from "./window.ts";

const names = optionNames<WindowOptions>({
  seed: true,
  firstRow: true,
  weights: true,
  scale: true,
  carry: true,
  training: true,
  segmentsPerStep: true,
  microBatch: true,
});

/** Throws MemformerError CONFIG for an unknown name and for a value that no later check has a sentence for. */
export function checkWindowOptions(options: WindowOptions): void {
  knownOptions(names, options, "window");
  const { seed, scale, training } = options;
  if (seed !== undefined) wholeSeed(seed, "window");
  if (scale !== undefined && !Number.isFinite(scale)) refuse("scale must be a finite number", scale);
  if (training !== undefined && typeof training !== "boolean") refuse("training must be true or false", training);
}

function refuse(sentence: string, value: unknown): never {
  throw new MemformerError("CONFIG", `window: ${sentence}, got ${String(value)}`);
}
