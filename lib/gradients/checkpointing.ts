/**
 * Gradient checkpointing with a segment as the unit: as MRBP, but the first sweep runs every whole segment, decoder and
 * loss included, which is what a general checkpointing does that does not know the critical path. Where steps are
 * recorded, those back are; a whole segment without gradient is not among them.
 */
import { mrbp } from "./mrbp.ts";
import type { Recurrence } from "../model/recurrence.ts";
import type { GradientMethod } from "./window.ts";

/**
 * The gradient of a window by checkpointing, one segment at a time; as {@link mrbp}, with whole segments in the first
 * sweep.
 */
export const checkpointing: GradientMethod = (model, window, state, options) =>
  mrbp(wholeSegments(model), window, state, options);

function wholeSegments(model: Recurrence): Recurrence {
  return {
    ...(model.stateLayout !== undefined && { stateLayout: model.stateLayout }),
    advance: (segment, before, step) => model.forward(segment, before, step).state,
    forward: (segment, before, step) => model.forward(segment, before, step),
    ...(model.capturesGraphs === true && model.replay !== undefined && { replay: model.replay.bind(model) }),
  };
}
