/**
 * Back-propagation through time over a window, as a textbook has it: one graph over all segments. MRBP's measure, and
 * its oracle.
 */
import { inMicroBatches } from "./micro-batch.ts";
import { mrbp } from "./mrbp.ts";
import { backward, tidy, type Tensor } from "../engine/tensor.ts";
import { differentiableParts, leafState } from "../model/state.ts";
import { planWindow, type GradientMethod } from "./window.ts";

/** The gradient of a window by back-propagation through one graph over all its segments, which all stay in memory. */
export const bptt: GradientMethod = inMicroBatches((model, window, state, options = {}) =>
  tidy(() => {
    const { weights, steps, carry } = planWindow(window, options);
    // MRBP in one step of all segments is one graph over them, too: where steps are recorded, that one is.
    if (model.capturesGraphs === true)
      return mrbp(model, window, state, { ...options, segmentsPerStep: window.length });
    const start = leafState(model.stateLayout, state);
    const losses: Tensor[] = [],
      counts: Tensor[] = [],
      states = [start];
    for (const [t, segment] of window.entries()) {
      const step = model.forward(segment, states[t]!, { ...steps[t]!, graph: true });
      losses.push(step.loss);
      counts.push(step.count);
      states.push(step.state);
    }
    backward(losses, weights);
    return {
      losses: losses.map((loss) => loss.detach()),
      counts,
      state: states[carry]!.map((tensor) => tensor.detach()),
      gradient: differentiableParts(model.stateLayout, start).map((tensor) => tensor.gradient()),
    };
  }),
);
