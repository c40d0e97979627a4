/** Algorithm 1 of the paper as a plain loop, the oracle of lib/gradients/mrbp.ts. */
import type { Memformer, SegmentTensors, State } from "../../lib/index.ts";

/**
 * Adds the gradient of a window's mean loss to the parameters' and returns the state after it: forward over all
 * segments but the last step's with nothing kept but the states, then back, `G` segments at a time; the first step is
 * the short one. Call it inside tidy.
 */
export function plainMrbp(model: Memformer, window: readonly SegmentTensors[], start: State, G: number): State {
  const S = window.length,
    options = window.map(() => ({ seed: 0, training: true })),
    states = [start];
  for (let t = 0; t < S - G; t++) states.push(model.advance(window[t]!, states[t]!, options[t]));
  let gradient: State = [],
    after: State = [];
  for (let end = S; end > 0; end -= G) {
    const first = Math.max(0, end - G),
      last = end === S,
      weights = Array.from({ length: end - first }, () => 1 / S);
    const segments = window.slice(first, end);
    const replayed = model.replay(segments, states[first]!, weights, gradient, options.slice(first, end), last);
    if (last) after = replayed.state;
    gradient = replayed.gradient;
  }
  return after;
}
