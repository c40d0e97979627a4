/** A window of random tokens, and the time of training steps over it. */
import { type AdamW, disposeSegment, gradientMethods, type GradientMethodName, type Memformer, type SegmentTensors, synchronize, type Tensor } from "../../lib/index.ts";
import { Random } from "../../lib/data/random.ts";

/** S segments of B rows of the model's T random tokens, none padded; only the first starts documents. */
export function randomWindow(model: Memformer, batch: number, horizon: number): SegmentTensors[] {
  const { vocabulary, segment: length } = model.config, random = new Random(0);
  const tokens = (): Int32Array => Int32Array.from({ length: batch * length }, () => random.below(vocabulary));
  let source = tokens();
  return Array.from({ length: horizon }, (_, t) => {
    const target = tokens();
    const segment = model.upload({ batch, length, source, target, reset: new Uint8Array(batch).fill(t === 0 ? 1 : 0), padded: false });
    source = target;
    return segment;
  });
}

export function disposeWindow(window: readonly SegmentTensors[]): void {
  window.forEach(disposeSegment);
}

/** Seconds of each of `count` steps: gradient, clipping, AdamW; every step is waited for. */
export async function timeSteps(model: Memformer, window: readonly SegmentTensors[], method: GradientMethodName, count: number,
  optimizer?: AdamW): Promise<number[]> {
  let state = model.initialState(window[0]!.batch);
  const seconds: number[] = [];
  for (let i = 0; i < count; i++) {
    const began = performance.now();
    const result = gradientMethods[method](model, window, state, { seed: i });
    const norm = model.clipGradients(1);
    if (optimizer === undefined) model.zeroGradients();
    else optimizer.step(3e-4, norm);
    await synchronize();
    seconds.push((performance.now() - began) / 1000);
    const spent: Tensor[] = [norm, ...result.losses, ...result.counts, ...result.gradient, ...state];
    for (const tensor of spent) tensor.dispose();
    state = result.state;
  }
  for (const tensor of state) tensor.dispose();
  return seconds;
}
