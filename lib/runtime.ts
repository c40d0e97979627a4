/** The engine of this thread: memory in use, barriers, cancelling. */
import type { CancelHandle } from "./native/addon.ts";
import { addon, configureThreads, guarded, libtorchInUse, nextCall, waited } from "./native/calls.ts";

export interface MemoryUse {
  /** Tensor handles alive in this process. */
  readonly tensors: number;
  /** Bytes of host memory that tensors hold now. */
  readonly hostBytes: number;
  /** The most `hostBytes` has been since {@link resetPeakMemory}. */
  readonly peakHostBytes: number;
  /** Bytes kept for reuse; {@link trimMemory} gives them back. */
  readonly cachedBytes: number;
}

export interface RuntimeFacts {
  /** "cpu". */
  readonly device: string;
  readonly libtorch: string;
  /** Threads of the operators. */
  readonly threads: number;
}

/** Loads the native core if it is not loaded yet, and says what runs. `threads`: of the operators, 0 (default) for one a core. */
export function runtime(options: { threads?: number } = {}): RuntimeFacts {
  if (options.threads !== undefined) configureThreads(options.threads);
  return { device: "cpu", libtorch: libtorchInUse(), threads: addon().versions().threads };
}

export function memory(): MemoryUse {
  return guarded((native) => native.memory());
}

/** Starts the peak anew, once the calls made before have run. */
export function resetPeakMemory(): void {
  guarded((native) => { native.resetPeak(nextCall()); });
}

/** Gives memory kept for reuse back to the system. */
export function trimMemory(): void {
  guarded((native) => { native.trim(); });
}

/** Resolves when all calls made before have run; rejects with the error of one that nobody has read. */
export async function synchronize(): Promise<void> {
  const call = nextCall();
  return waited((native) => native.read(call));
}

const flags = new WeakMap<AbortSignal, CancelHandle>();
let inForce: CancelHandle | null = null;

/**
 * Runs `body`, whose calls are skipped from the moment `signal` aborts: they fail with code ABORTED. `body` only enqueues, so
 * the flag stays with its calls until they have run. Throws `signal.reason` if it has aborted already.
 */
export function cancellable<T>(signal: AbortSignal | undefined, body: () => T): T {
  if (signal === undefined) return body();
  signal.throwIfAborted();
  const native = addon();
  let flag = flags.get(signal);
  if (flag === undefined) {
    const made = flag = native.newCancel();
    flags.set(signal, made);
    signal.addEventListener("abort", () => { native.cancel(made); }, { once: true });
  }
  const outer = inForce;
  native.useCancel(inForce = flag);
  try {
    return body();
  } finally {
    native.useCancel(inForce = outer);
  }
}
