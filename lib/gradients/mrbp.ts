/**
 * Memory replay back-propagation, the paper's Algorithm 1: the gradient of truncated BPTT over a window, holding one
 * segment's activations and the window's memories instead of everything.
 */
import { inMicroBatches } from "./micro-batch.ts";
import type { Recurrence, Replayed } from "../model/recurrence.ts";
import { applyOperator, backward, callListOperator, tidy, type Tensor } from "../engine/tensor.ts";
import { differentiableParts, leafState } from "../model/state.ts";
import { planWindow, type GradientMethod } from "./window.ts";

/**
 * The gradient of a window by memory replay back-propagation: that of {@link bptt}, for the activations of one step and
 * the memories.
 */
export const mrbp: GradientMethod = inMicroBatches((model, window, state, options = {}) =>
  tidy(() => {
    const { weights, steps, carry } = planWindow(window, options);
    // A step of the algorithm is one segment, or a few together: small ones leave a GPU idle, and their activations
    // take little room.
    const S = window.length,
      G = Math.min(S, options.segmentsPerStep ?? model.segmentsPerStep?.(window[0]!) ?? 1);
    // Where G does not divide S the first step is the short one: the sweep before goes no further than to the last.
    const short = S % G || G,
      starts = Array.from({ length: Math.ceil(S / G) }, (_, i) => (i === 0 ? 0 : short + (i - 1) * G));

    // Forward, without gradient, along the critical path only: every step's memory is kept, nothing else.
    const buffer = [state];
    for (let t = 0; t < Math.max(starts.at(-1)!, carry < S ? carry : 0); t++)
      buffer.push(model.advance(window[t]!, buffer[t]!, steps[t]));

    // Backward: each step is computed anew, by the same seed, from its memory as a leaf, and the gradient of its next
    // memory (the last has no later loss) goes back through it at once.
    const losses: Tensor[] = [],
      counts: Tensor[] = [];
    let gradient: readonly Tensor[] = [],
      last = state;
    const replay = model.replay?.bind(model) ?? composed(model);
    for (const [i, t] of [...starts.entries()].toReversed()) {
      const end = starts[i + 1] ?? S;
      const final = end === S;
      const replayed = replay(
        window.slice(t, end),
        buffer[t]!,
        weights.slice(t, end),
        gradient,
        steps.slice(t, end),
        final,
      );
      losses.unshift(...each(replayed.loss, end - t));
      counts.unshift(...each(replayed.count, end - t));
      if (final) last = replayed.state;
      for (const tensor of gradient) tensor.dispose();
      gradient = replayed.gradient;
    }
    return { losses, counts, state: carry < S ? buffer[carry]! : last, gradient };
  }),
);

/** (G) as G scalars. */
function each(tensor: Tensor, count: number): Tensor[] {
  return callListOperator("aten::unbind.int", count, tensor, 0);
}

/** The replay of a recurrence that has none of its own: its forward, and a backward pass. */
function composed(model: Recurrence): NonNullable<Recurrence["replay"]> {
  return (segments, state, weights, gradient, options, last): Replayed =>
    tidy(() => {
      const before = leafState(model.stateLayout, state),
        losses: Tensor[] = [],
        counts: Tensor[] = [];
      let next = before;
      for (const [i, segment] of segments.entries()) {
        const step = model.forward(segment, next, { ...options[i], graph: true });
        losses.push(step.loss);
        counts.push(step.count);
        next = step.state;
      }
      const later = last ? [] : differentiableParts(model.stateLayout, next);
      backward([...losses, ...later], [...weights, ...gradient]);
      return {
        loss: applyOperator(
          "aten::stack",
          losses.map((loss) => loss.detach()),
        ),
        count: applyOperator("aten::stack", counts),
        state: last ? next.map((tensor) => tensor.detach()) : [],
        gradient: differentiableParts(model.stateLayout, before).map((tensor) => tensor.gradient()),
      };
    });
}
