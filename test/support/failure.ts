/** What tests expect to fail, and the error that it fails with. */
import type { MemformerError } from "../../lib/index.ts";

/** What a promise rejects with, or a function throws or rejects with. Throws if it does neither. */
export async function failure(work: Promise<unknown> | (() => unknown)): Promise<MemformerError> {
  try {
    await (typeof work === "function" ? work() : work);
  } catch (error) {
    return error as MemformerError;
  }
  throw new Error("expected a failure, nothing failed");
}

/** The same at once, of a function that throws. */
export function thrown(action: () => unknown): MemformerError {
  try {
    action();
  } catch (error) {
    return error as MemformerError;
  }
  throw new Error("expected a failure, nothing failed");
}
