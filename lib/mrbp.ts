/**
 * Memory replay back-propagation, the paper's Algorithm 1: the gradient of truncated BPTT over a window, holding one segment's
 * activations and the window's memories instead of everything.
 */
import { tidy, backward, type Tensor } from "./tensor.ts";
import { planWindow, type GradientMethod } from "./window.ts";

export const mrbp: GradientMethod = (model, window, state, options = {}) => tidy(() => {
  const { weights, steps, carry } = planWindow(window, options);
  const S = window.length;

  // Forward, without gradient, along the critical path only: every memory is kept, nothing else.
  const buffer = [state];
  for (let t = 0; t < S - 1; t++) buffer.push(model.advance(window[t]!, buffer[t]!, steps[t]));

  // Backward: each segment is computed anew, by the same seed, from its memory as a leaf.
  const losses: Tensor[] = [], counts: Tensor[] = [];
  let gradient: readonly Tensor[] = [];
  for (let t = S - 1; t >= 0; t--) {
    const replayed = tidy(() => {
      const memory = buffer[t]!.map((tensor) => tensor.leaf());
      const { loss, count, state: next } = model.forward(window[t]!, memory, { ...steps[t]!, graph: true });
      const [last, later] = t === S - 1 ? [next, []] : [[], next]; // the last memory has no later loss
      backward([loss, ...later], [weights[t]!, ...gradient]);
      return { loss: loss.detach(), count, last: last.map((tensor) => tensor.detach()), gradient: memory.map((tensor) => tensor.gradient()) };
    });
    losses[t] = replayed.loss;
    counts[t] = replayed.count;
    for (const tensor of gradient) tensor.dispose();
    gradient = replayed.gradient;
    if (t === S - 1) buffer.push(replayed.last);
  }
  return { losses, counts, state: buffer[carry]!, gradient };
});
