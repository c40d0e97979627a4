/** Time and peak memory of a model's work: what is made once is made before, and every round is waited for. */
import { PADDING } from "../../data/segment.ts";
import { median } from "../../diagnose/statistics.ts";
import { resetPeakMemory, synchronize, trimMemory } from "../../engine/runtime.ts";
import { tidy } from "../../engine/tensor.ts";
import { Memformer } from "../../model/memformer.ts";
import type { ModelOptions } from "../../model/config.ts";
import type { State } from "../../model/recurrence.ts";
import { disposeSegment, type SegmentTensors } from "../../model/segment-tensors.ts";
import type { RunContext } from "../experiment.ts";
import { segmentFlops } from "../flops.ts";
import { tensorBytes } from "../machine.ts";
import { disposeWindow, randomWindow, timeSteps } from "../windows.ts";
import type { CostSettings } from "./plan.ts";

export interface CostResult {
  /** By the model's own formula, of all rows and tokens of the work. */
  readonly flops: number;
  /** Median of the rounds, and the least and greatest. */
  readonly seconds: number;
  readonly range: readonly [number, number];
  /**
   * Greatest bytes of tensors above weights and given tokens: gradients, states, a decoder's caches and what a GPU
   * holds of recorded steps count.
   */
  readonly peakBytes: number;
  readonly stateBytes: number;
  /** Tokens of all rows that the work is of. */
  readonly tokens: number;
}

/** Before the rounds that count: gradients are made, steps of a GPU recorded. */
const WARM = 3;

/** Throws MemformerError OUT_OF_MEMORY where the work does not fit; the signal's reason when it aborts. */
export async function measureCost(settings: CostSettings, { device, signal }: RunContext): Promise<CostResult> {
  const { work, context, batch, rounds, model: options } = settings;
  await using model = await Memformer.create({ ...(options as ModelOptions), device });
  const { segmentLength } = model.config,
    segments = context / segmentLength;
  const window = randomWindow(model, batch, segments);
  try {
    await synchronize();
    trimMemory();
    const before = tensorBytes(model.device).now;
    resetPeakMemory(); // what a recorded step holds is counted when it is recorded, not when it is replayed
    using prepared = works[work](model, window, batch);
    for (let i = 0; i < WARM; i++) await prepared.round();
    await synchronize();
    trimMemory();
    const seconds: number[] = [];
    for (let i = 0; i < rounds; i++) {
      signal?.throwIfAborted();
      seconds.push(await prepared.round());
    }
    const flops = segmentFlops(model.config),
      generated = generatedOf(model);
    const ofRow = {
      read: segments * flops.forward,
      train: segments * flops.replayed,
      generate: (generated / segmentLength) * flops.forward,
    };
    return {
      flops: batch * ofRow[work],
      seconds: median(seconds),
      range: [Math.min(...seconds), Math.max(...seconds)],
      peakBytes: tensorBytes(model.device).peak - before,
      stateBytes: model.stateBytes,
      tokens: batch * (work === "generate" ? generated : context),
    };
  } finally {
    disposeWindow(window);
  }
}

/** Tokens that a round generates of a row: a segment, its beginning with what that costs included, up to 128. */
function generatedOf({ config: { segmentLength } }: Memformer): number {
  return Math.min(segmentLength, 128);
}

/** Work that is done again and again. */
interface Prepared extends Disposable {
  /** Once; the seconds that it took. */
  readonly round: () => Promise<number>;
}

const works: Readonly<
  Record<CostSettings["work"], (model: Memformer, window: readonly SegmentTensors[], batch: number) => Prepared>
> = {
  read: (model, window, batch) => ({
    round: async () =>
      timed(() => {
        free(read(model, window, batch));
      }),
    [Symbol.dispose]: () => undefined,
  }),
  train: (model, window) => ({
    round: async () => (await timeSteps(model, window, "mrbp", 1, undefined, { segmentsPerStep: 1 }))[0]!,
    [Symbol.dispose]: () => undefined,
  }),
  generate: generation,
};

/** Scores every segment, one a step, so that memory does not follow the context; returns the state behind them. */
function read(model: Memformer, window: readonly SegmentTensors[], batch: number): State {
  let state = model.initialState(batch);
  for (const segment of window) {
    const next = tidy(() => model.score([segment], { memory: state, held: [] }, []).state.memory);
    free(state);
    state = next;
  }
  return state;
}

/** Rounds that generate a segment behind the window; reading it is not timed. */
function generation(model: Memformer, window: readonly SegmentTensors[], batch: number): Prepared {
  const { segmentLength, memory, architecture } = model.config,
    slots = Array.from({ length: batch }, (_, slot) => slot),
    tokens = slots.map((slot) => slot + 1);
  const count = generatedOf(model),
    behind = segmentLength - count,
    whole = architecture === "transformer-xl" && !memory; // the context is the segment's own beginning
  const decoder = model.decoder(batch), // one for all rounds: a GPU records its steps
    segment = model.upload({
      batch,
      length: segmentLength,
      source: new Int32Array(batch * segmentLength).fill(1),
      target: new Int32Array(batch * segmentLength).fill(PADDING),
      reset: new Uint8Array(batch),
    });
  const round = async (): Promise<number> => {
    const state = whole ? model.initialState(batch) : read(model, window, batch);
    const begin = (): void => {
      decoder.begin(segment, state, slots).dispose();
    };
    if (behind > 0) {
      begin();
      // One less than lies behind: the segment's last token has nothing after it.
      if (behind > 1) for (const slot of slots) decoder.prefill(new Array<number>(behind - 1).fill(1), slot).dispose();
    }
    await synchronize();
    try {
      return await timed(() => {
        if (behind === 0) begin();
        for (let i = behind === 0 ? 1 : 0; i < count; i++) decoder.step(tokens, slots).dispose();
      });
    } finally {
      free(state);
    }
  };
  return {
    round,
    [Symbol.dispose]: () => {
      decoder.dispose();
      disposeSegment(segment);
    },
  };
}

async function timed(body: () => void): Promise<number> {
  const began = performance.now();
  body();
  await synchronize();
  return (performance.now() - began) / 1000;
}

function free(state: State): void {
  for (const tensor of state) tensor.dispose();
}
