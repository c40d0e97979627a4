/**
 * Gradient checkpointing with a segment as the unit: as MRBP, but the first sweep runs every whole segment, decoder and loss
 * included, which is what a general checkpointing does that does not know the critical path.
 */
import { mrbp } from "./mrbp.ts";
import type { GradientMethod } from "./window.ts";

/** The gradient of a window by checkpointing, one segment at a time; as {@link mrbp}, with whole segments in the first sweep. */
export const checkpointing: GradientMethod = (model, window, state, options) => mrbp({
  advance: (segment, before, step) => model.forward(segment, before, step).state,
  forward: (segment, before, step) => model.forward(segment, before, step),
}, window, state, options);
