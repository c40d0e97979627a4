/** One step of a pass over text: the losses of consecutive segments, and the state behind them. */
import { applyOperator, tidy } from "../engine/tensor.ts";
import type { EvaluatedModel } from "../model/recurrence.ts";
import type { Ablation, Scored, ScoringState } from "../model/scoring.ts";
import { disposeSegment, type SegmentTensors } from "../model/segment-tensors.ts";
import { composedScore } from "./composed-score.ts";
import type { CarriedState, SharedSegment } from "./shared-rows.ts";

/** As {@link EvaluatedModel.score}; where the state has a neighbour, of one segment. */
export function scoreSegments(
  model: EvaluatedModel,
  segments: readonly SharedSegment[],
  state: CarriedState,
  ablations: readonly Ablation[],
): Scored & { readonly state: CarriedState } {
  return tidy(() => {
    const own = segments.map((segment) => model.upload(segment.own)),
      neighbours = segments.flatMap(({ neighbour }) => (neighbour === undefined ? [] : [model.upload(neighbour)]));
    const [next] = neighbours;
    const made =
      next === undefined
        ? { ...score(model, own, state, ablations), neighbour: [] }
        : besideNeighbour(model, own[0]!, next, state, ablations);
    for (const segment of [...own, ...neighbours]) disposeSegment(segment);
    const { neighbour, losses, counts } = made;
    return { losses, counts, state: { ...made.state, neighbour } };
  });
}

function score(
  model: EvaluatedModel,
  segments: readonly SegmentTensors[],
  { memory, held }: ScoringState,
  ablations: readonly Ablation[],
): Scored {
  const state = { memory, held };
  return model.score?.(segments, state, ablations) ?? composedScore(model, segments, state, ablations);
}

/** Shuffled, the first row reads the memory of the neighbour, which is another rank's row and goes on beside. */
function besideNeighbour(
  model: EvaluatedModel,
  own: SegmentTensors,
  next: SegmentTensors,
  state: CarriedState,
  ablations: readonly Ablation[],
): Scored & { readonly neighbour: CarriedState["neighbour"] } {
  const others = ablations.filter((name) => name !== "shuffled"),
    made = score(model, [own], state, others);
  const before = state.memory.map((tensor, i) =>
    applyOperator("aten::cat", [state.neighbour[i]!, applyOperator("aten::narrow", tensor, 0, 0, own.batch - 1)], 0),
  );
  const shuffled = applyOperator("aten::view", model.forward(own, before).loss.detach(), [1, 1]),
    at = 1 + ablations.indexOf("shuffled");
  const rows = (first: number, count: number): ReturnType<typeof applyOperator> =>
    applyOperator("aten::narrow", made.losses, 0, first, count);
  return {
    ...made,
    losses: applyOperator("aten::cat", [rows(0, at), shuffled, rows(at, 1 + others.length - at)], 0),
    neighbour: model.advance(next, state.neighbour).map((tensor) => tensor.detach()),
  };
}
