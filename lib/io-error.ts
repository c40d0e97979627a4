/** Failures of the file system as errors of memformer: which path, what was tried, which errno. */
import { isNativeError } from "node:util/types";
import { MemformerError } from "./errors.ts";

/**
 * Runs `work`; a failure of the operating system inside it (any error whose `code` is an errno such as `ENOSPC`)
 * leaves as a {@link MemformerError} with code `ERR_MEMFORMER_IO` and details `{ path, errno, action }`.
 * Every other error passes untouched.
 */
export async function withIoErrors<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asIoError(action, path, error);
  }
}

/** The synchronous twin of {@link withIoErrors}. */
export function withIoErrorsSync<T>(action: string, path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw asIoError(action, path, error);
  }
}

/** The errno of an error of the operating system (`"ENOENT"`), or undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  const code = isNativeError(error) ? (error as NodeJS.ErrnoException).code : undefined;
  return typeof code === "string" && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

function asIoError(action: string, path: string, error: unknown): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  const words = (error as Error).message;
  const reason = words.includes(errno) ? words : `${errno}: ${words}`;
  return new MemformerError("IO", `cannot ${action} ${path}: ${reason}`, {
    details: { path, errno, action },
    cause: error,
  });
}
