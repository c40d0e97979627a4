/** The engine of this thread: memory in use, barriers, cancelling. */
import { z } from "zod";
import type { CancelHandle } from "../native/addon.ts";
import { addon, addonOrigin, configureThreads, guarded, nextCall, operatorThreads, waited } from "../native/calls.ts";
import { resolveDevice, type Device } from "../native/cuda.ts";
import { checkOptions, optionSchema } from "../options.ts";

/** Bytes on the host and on the device. */
export interface MemoryUsage {
  /** Tensor handles alive in this process. */
  readonly tensors: number;
  /** Bytes of host memory that tensors hold now. */
  readonly hostBytes: number;
  /** The most `hostBytes` has been since {@link resetPeakMemory}. */
  readonly peakHostBytes: number;
  /** Bytes kept for reuse; {@link trimMemory} gives them back. */
  readonly cachedBytes: number;
  /** Bytes of GPU memory that tensors and recorded steps hold now, over all GPUs. */
  readonly deviceBytes: number;
  /** The most `deviceBytes` has been since {@link resetPeakMemory}. */
  readonly peakDeviceBytes: number;
  /** Bytes taken from the GPUs, those kept for reuse included. */
  readonly reservedDeviceBytes: number;
}

/** Versions, devices and threads that memformer runs with. */
export interface RuntimeFacts {
  /** What `device: "auto"` is: "cpu" or "cuda:0". */
  readonly device: Device;
  readonly libtorch: string;
  /** Threads of the operators. */
  readonly threads: number;
}

/** Settings of the whole process. */
export interface RuntimeOptions {
  /** Of the operators, 0 (default) for one a core, fewer where a control group's quota grants fewer. */
  readonly threads?: number;
  /** Whether a GPU's float32 products may round their factors to TF32 (10 bits of fraction). Default false. */
  readonly tf32?: boolean;
  /** Whether the same input must give the same bits on a GPU, at some speed; a CPU's always do. Default false. */
  readonly deterministic?: boolean;
}

const runtimeSchema = optionSchema<RuntimeOptions>({
  threads: z.int().nonnegative().optional(),
  tf32: z.boolean().optional(),
  deterministic: z.boolean().optional(),
});

const math = { tf32: false, deterministic: false };

/**
 * Loads the native core if it is not loaded yet, sets what is given, and says what runs. For the whole process. Throws
 * MemformerError CONFIG for unknown options and for those out of range, BUSY for another number of threads than the
 * engine runs with.
 */
export function configureRuntime(options: RuntimeOptions = {}): RuntimeFacts {
  checkOptions(runtimeSchema, options, "runtime");
  if (options.threads !== undefined) configureThreads(options.threads);
  if (options.tf32 !== undefined || options.deterministic !== undefined) {
    math.tf32 = options.tf32 ?? math.tf32;
    math.deterministic = options.deterministic ?? math.deterministic;
    guarded((native) => {
      native.setMath(nextCall(), math.tf32, math.deterministic);
    });
  }
  return { device: resolveDevice("auto"), libtorch: addonOrigin().libtorch.version, threads: operatorThreads() };
}

/** Tensors in use, and their current and peak bytes, counted by the allocators. */
export function memoryUsage(): MemoryUsage {
  return guarded((native) => native.memory());
}

/** Starts the peak anew, once the calls made before have run. */
export function resetPeakMemory(): void {
  guarded((native) => {
    native.resetPeak(nextCall());
  });
}

/** Gives memory kept for reuse back to the system. */
export function trimMemory(): void {
  guarded((native) => {
    native.trim();
  });
}

/** Resolves when all calls made before have run; rejects with the error of one that nobody has read. */
export async function synchronize(): Promise<void> {
  const call = nextCall();
  return waited((native) => native.read(call));
}

/** Runs `body` under LibTorch's profiler and writes a trace to `path`, for chrome://tracing or ui.perfetto.dev. */
export async function writeProfile(path: string, body: () => void | Promise<void>): Promise<void> {
  guarded((native) => {
    native.startProfile(nextCall());
  });
  try {
    await body();
  } finally {
    guarded((native) => {
      native.stopProfile(nextCall(), path);
    });
    await synchronize();
  }
}

const flags = new WeakMap<AbortSignal, CancelHandle>();
let inForce: CancelHandle | null = null;

/**
 * Runs `body`, whose calls are skipped from the moment `signal` aborts: they fail with code ABORTED. `body` only
 * enqueues, so the flag stays with its calls until they have run. Throws `signal.reason` if it has aborted already.
 */
export function cancellable<T>(signal: AbortSignal | undefined, body: () => T): T {
  if (signal === undefined) return body();
  signal.throwIfAborted();
  const native = addon();
  let flag = flags.get(signal);
  if (flag === undefined) {
    const made = (flag = native.newCancel());
    flags.set(signal, made);
    signal.addEventListener(
      "abort",
      () => {
        native.cancel(made);
      },
      { once: true },
    );
  }
  const outer = inForce;
  native.useCancel((inForce = flag));
  try {
    return body();
  } finally {
    native.useCancel((inForce = outer));
  }
}
