/**
 * A training run as JavaScript drives it on a GPU: a window is enqueued while the one before runs, and nothing is read but the
 * moment at which each has ended.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import {
  AdamW, type GradientMethodName, type Memformer, memory, resetPeakMemory, type SegmentTensors, synchronize, type Tensor,
} from "../../lib/index.ts";
import { enqueueWindow } from "./window.ts";

export interface Timing {
  /** Of each timed window, from the end of the one before to its own. */
  readonly seconds: readonly number[];
  /** Of each timed window: how long JavaScript was busy enqueueing it. */
  readonly enqueueSeconds: readonly number[];
  /** By how much a timer of 1 ms came late, p99, while the timed windows ran. */
  readonly loopDelaySeconds: number;
  /** On the GPU, since the first window began: what is recorded takes its memory while it is recorded. */
  readonly peakBytes: number;
  /** Of the first window, from the weights the model came with. */
  readonly losses: readonly number[];
  readonly norm: number;
}

/** Trains `warmup` windows, then `timed` ones by the clock. Rejects with what a window failed with; the model is good for more. */
export async function timePipeline(model: Memformer, window: readonly SegmentTensors[], method: GradientMethodName, warmup: number,
  timed: number): Promise<Timing> {
  using optimizer = new AdamW(model, { weightDecay: 0.01 });
  const loop = monitorEventLoopDelay({ resolution: 1 });
  const ends: number[] = [], enqueueSeconds: number[] = [], kept: Tensor[] = [];
  let state = model.initialState(window[0]!.batch), first: { losses: readonly Tensor[]; norm: Tensor } | undefined;
  let before: Promise<void> = Promise.resolve();
  await synchronize();
  resetPeakMemory();
  try {
    for (let i = 0; i < warmup + timed; i++) {
      if (i === warmup) {
        await before;
        loop.enable();
        ends.push(performance.now());
      }
      const began = performance.now();
      const made = enqueueWindow(model, window, method, state, i, optimizer);
      enqueueSeconds.push((performance.now() - began) / 1000);
      state = made.state;
      if (first === undefined) kept.push(...(first = made).losses, made.norm);
      else for (const tensor of [...made.losses, made.norm]) tensor.dispose();
      const ended = synchronize().then(() => { if (i >= warmup) ends.push(performance.now()); });
      ended.catch(() => undefined); // awaited below, unless the one before fails
      await before;
      before = ended;
    }
    await before;
    loop.disable();
    const losses = await Promise.all(first!.losses.map(async (loss) => loss.item()));
    return {
      seconds: ends.slice(1).map((end, i) => (end - ends[i]!) / 1000), enqueueSeconds: enqueueSeconds.slice(warmup),
      loopDelaySeconds: Math.max(0, loop.percentile(99) / 1e9 - 1e-3), peakBytes: memory().peakDeviceBytes,
      losses, norm: await first!.norm.item(),
    };
  } finally {
    for (const tensor of [...kept, ...state]) tensor.dispose();
    await before.catch(() => undefined);
    model.zeroGradients();
  }
}
