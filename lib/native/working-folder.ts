/**
 * The folder that a process works in can be removed under it. Libraries that LibTorch brings end the process then,
 * without a word.
 */
import { MemformerError } from "../errors.ts";

/** Throws MemformerError IO when the working folder is gone. */
export function requireWorkingFolder(): void {
  try {
    process.cwd();
  } catch (cause) {
    throw new MemformerError(
      "IO",
      "the working folder is gone: it was removed while this process was in it; change into one that is there",
      { cause },
    );
  }
}
