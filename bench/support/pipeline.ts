/**
 * A training run as JavaScript drives it on a GPU: a window is enqueued while the one before runs, and nothing is read
 * but the moment at which each has ended.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import {
  AdamW,
  type GradientMethodName,
  type Memformer,
  memoryUsage,
  resetPeakMemory,
  type SegmentTensors,
  synchronize,
  type Tensor,
} from "../../lib/index.ts";
import { deviceEvents, occupancy } from "./kernels.ts";
import { type Cut, enqueueWindow } from "./window.ts";

/** By how much a timer of 1 ms came late while the timed windows ran, once for each time it came. */
export interface LoopDelay {
  readonly p99Seconds: number;
  readonly mostSeconds: number;
  readonly samples: number;
}

export interface Timing {
  /** Of each timed window, from the end of the one before to its own. */
  readonly seconds: readonly number[];
  /** Of each timed window: how long JavaScript was busy enqueueing it. */
  readonly enqueueSeconds: readonly number[];
  readonly loop: LoopDelay;
  /** On the GPU, since the first window began: what is recorded takes its memory while it is recorded. */
  readonly peakBytes: number;
  /**
   * Of one more window, under the profiler: how much of its time the GPU had something to do; 1 is all. Only where that
   * was asked for.
   */
  readonly busy: number | undefined;
  /** Of the first window, from the weights the model came with. */
  readonly losses: readonly number[];
  readonly norm: number;
}

export interface PipelinePlan {
  readonly method: GradientMethodName;
  /** Windows before the clock starts, and by the clock; of the latter more where they take less than a second. */
  readonly warmup: number;
  readonly windows: number;
  /** One window more, under the profiler. Default false. */
  readonly traced?: boolean;
  /** Default: all rows at once, and as many segments as the model thinks best. */
  readonly cut?: Cut;
  /** Whether the layers' matrices are moved by Muon. Default false. */
  readonly muon?: boolean;
}

/**
 * Seconds that the timed windows take at least: a timer of 1 ms comes some hundred times, of which the p99 is not the
 * one worst.
 */
const least = 1;

/** Trains on one window again and again. Rejects with what a window failed with; the model is good for more. */
export async function timePipeline(
  model: Memformer,
  window: readonly SegmentTensors[],
  plan: PipelinePlan,
): Promise<Timing> {
  const { method, warmup, windows: timed, traced = false, cut = {}, muon = false } = plan;
  using optimizer = new AdamW(model, { weightDecay: 0.01, muon });
  const loop = monitorEventLoopDelay({ resolution: 1 });
  const ends: number[] = [],
    enqueueSeconds: number[] = [],
    kept: Tensor[] = [];
  let state = model.initialState(window[0]!.batch),
    first: { losses: readonly Tensor[]; norm: Tensor } | undefined;
  let before: Promise<void> = Promise.resolve(),
    i = 0,
    until = 0;
  optimizer.tensor(optimizer.tensors[0]!.name).dispose(); // its state is made when it is first asked for, and belongs to the peak
  await synchronize();
  resetPeakMemory();
  try {
    for (; i < warmup + timed || performance.now() < until; i++) {
      if (i === warmup) {
        await before;
        loop.enable();
        ends.push(performance.now());
        until = ends[0]! + 1000 * least;
      }
      const began = performance.now();
      const made = enqueueWindow(model, window, method, state, i, optimizer, cut);
      enqueueSeconds.push((performance.now() - began) / 1000);
      state = made.state;
      if (first === undefined) kept.push(...(first = made).losses, made.norm);
      else for (const tensor of [...made.losses, made.norm]) tensor.dispose();
      const counts = i >= warmup,
        ended = synchronize().then(() => {
          if (counts) ends.push(performance.now());
        });
      ended.catch(() => undefined); // awaited below, unless the one before fails
      await before;
      before = ended;
    }
    await before;
    loop.disable();
    const { span, busy } = occupancy(
      !traced
        ? []
        : await deviceEvents(() => {
            const made = enqueueWindow(model, window, method, state, i, optimizer, cut);
            state = made.state;
            for (const tensor of [...made.losses, made.norm]) tensor.dispose();
          }),
    );
    const losses = await Promise.all(first!.losses.map(async (loss) => loss.item()));
    return {
      seconds: ends.slice(1).map((end, w) => (end - ends[w]!) / 1000),
      enqueueSeconds: enqueueSeconds.slice(warmup),
      loop: { p99Seconds: late(loop.percentile(99)), mostSeconds: late(loop.max), samples: loop.count },
      peakBytes: memoryUsage().peakDeviceBytes,
      busy: traced ? busy / span : undefined,
      losses,
      norm: await first!.norm.item(),
    };
  } finally {
    for (const tensor of [...kept, ...state]) tensor.dispose();
    await before.catch(() => undefined);
    model.zeroGradients();
  }
}

/** Seconds late, of the nanoseconds between two times that a timer of 1 ms came. */
function late(nanoseconds: number): number {
  return Math.max(0, nanoseconds / 1e9 - 1e-3);
}
