/**
 * The way into the addon. Calls only enqueue, so an error surfaces later, at a read; each call therefore has a number,
 * under which the JavaScript stack of its caller is kept, and an error is given the stack of the call that failed.
 */
import { isNativeError } from "node:util/types"; // of any realm: tests in Jest run in one of their own
import { isMemformerError, MemformerError, type ErrorCode } from "../errors.ts";
import type { Addon } from "./addon.ts";
import type { Libtorch } from "../toolchain/libtorch/resolve.ts";
import { threadsOfQuota } from "./cpu-quota.ts";
import { loadAddon } from "./load.ts";

let loaded: Addon | undefined;
let threads = 0; // as asked for
let team = 0; // as set
let origin: Origin | undefined;

/** Where the addon came from. */
export interface Origin {
  readonly libtorch: Libtorch;
  /** Holds `memformer.node` and, built with CUDA, `libmemformer_cuda.so`. */
  readonly folder: string;
}

/** The addon, loaded at the first call. */
export function addon(): Addon {
  if (loaded !== undefined) return loaded;
  const { addon: fresh, libtorch, folder } = loadAddon();
  team = threads || defaultThreads();
  if (team > 0) fresh.configure(team);
  // Environment cleanup hooks do not run on process.exit(): the engine's thread has to be joined here.
  process.once("exit", () => {
    fresh.stop();
  });
  origin = { libtorch, folder };
  return (loaded = fresh);
}

/** Threads of the operators' team; takes effect if the addon is not loaded yet, else throws BUSY when it differs. */
export function configureThreads(count: number): void {
  if (loaded !== undefined && count !== threads) {
    throw new MemformerError(
      "BUSY",
      `threads must be set before the first model is made: the engine runs with ${threads || "the default"}`,
    );
  }
  threads = count;
}

/** One a core is LibTorch's own default (0), which heeds OMP_NUM_THREADS; it does not know a control group's quota. */
function defaultThreads(): number {
  const asked = process.env["OMP_NUM_THREADS"] ?? process.env["MKL_NUM_THREADS"];
  return asked ? 0 : (threadsOfQuota() ?? 0);
}

/** Threads of the operators' team. */
export function operatorThreads(): number {
  const native = addon();
  return team > 0 ? team : native.versions().threads;
}

/** The LibTorch in use and the addon's folder. */
export function addonOrigin(): Origin {
  addon();
  return origin!;
}

// Calls whose stacks are remembered: those of a window and more. A stack holds on to the receivers of its frames, so
// not all are.
const kept = 1024;
const sites: { stack?: string }[] = new Array<{ stack?: string }>(kept);
let last = 0;

/** A number for the call that is being made. */
export function nextCall(): number {
  const site: { stack?: string } = {};
  Error.captureStackTrace(site, nextCall);
  last += 1;
  sites[last % kept] = site;
  return last;
}

/** The fields that the addon adds to an error. */
interface NativeFailure {
  readonly code: string;
  readonly call?: number;
  /** LibTorch's own words. */
  readonly native?: string;
  /** Of OUT_OF_MEMORY on a GPU. */
  readonly requestedBytes?: number;
  readonly freeBytes?: number;
}

/** The addon's rejection as a MemformerError that points at the call that failed. */
export function translated(error: unknown): unknown {
  if (!isNativeError(error) || !("code" in error) || isMemformerError(error)) return error;
  const { code, call, native, requestedBytes, freeBytes } = error as Error & NativeFailure;
  const details = Object.fromEntries(
    Object.entries({ native, requestedBytes, freeBytes }).filter(([, value]) => value !== undefined),
  );
  const result = new MemformerError(
    code as ErrorCode,
    error.message,
    Object.keys(details).length === 0 ? {} : { details },
  );
  const site = call !== undefined && last - call < kept ? sites[call % kept] : undefined;
  const frames = site?.stack?.slice(site.stack.indexOf("\n"));
  if (frames !== undefined) result.stack = `${result.name} [${result.code}]: ${result.message}${frames}`;
  return result;
}

/** Runs `call` on the addon; what it throws comes out translated. */
export function guarded<T>(call: (addon: Addon) => T): T {
  try {
    return call(addon());
  } catch (error) {
    throw translated(error);
  }
}

/** The same for a call that waits. */
export async function waited<T>(call: (addon: Addon) => Promise<T>): Promise<T> {
  try {
    return await call(addon());
  } catch (error) {
    throw translated(error);
  }
}
