/**
 * The scoring of a model that has none of its own: one `forward` per segment with its state, and one more per ablation.
 * The source is taken for what the state is written from.
 */
import { applyOperator, type Tensor } from "../engine/tensor.ts";
import type { EvaluatedModel, State, Step } from "../model/recurrence.ts";
import type { Ablation, Scored, ScoringState } from "../model/scoring.ts";
import type { SegmentTensors } from "../model/segment-tensors.ts";
import { flagShape } from "../model/state.ts";

/** As {@link EvaluatedModel.score}; call it inside `tidy`. */
export function composedScore(
  model: EvaluatedModel,
  segments: readonly SegmentTensors[],
  before: ScoringState,
  ablations: readonly Ablation[],
): Scored {
  const losses: Tensor[][] = [[], ...ablations.map(() => [])],
    counts: Tensor[] = [],
    freezes = ablations.includes("frozen");
  let { memory, held } = before;
  for (const segment of segments) {
    if (freezes && held.length === 0) held = [...memory, applyOperator("aten::zeros_like", segment.reset)];
    const whole = model.forward(segment, memory);
    losses[0]!.push(whole.loss.detach());
    counts.push(whole.count);
    for (const [i, ablation] of ablations.entries())
      losses[1 + i]!.push(ablated(model, segment, ablation, memory, held).loss.detach());
    memory = whole.state.map((tensor) => tensor.detach());
    if (freezes) held = heldAfter(model, segment, held, memory);
  }
  return {
    losses: applyOperator(
      "aten::stack",
      losses.map((row) => applyOperator("aten::stack", row)),
    ),
    counts: applyOperator("aten::stack", counts),
    state: { memory, held: freezes ? held.map((tensor) => tensor.detach()) : [] },
  };
}

function ablated(model: EvaluatedModel, segment: SegmentTensors, ablation: Ablation, memory: State, held: State): Step {
  switch (ablation) {
    case "initial":
      return model.forward(segment, model.initialState(segment.batch));
    case "zeroed":
      return model.forward(
        { ...segment, reset: applyOperator("aten::zeros_like", segment.reset) }, // no row leaves its zeros
        memory.map((tensor) => applyOperator("aten::zeros_like", tensor)),
      );
    case "shuffled":
      return model.forward(
        segment,
        memory.map((tensor) => applyOperator("aten::roll", tensor, [1], [0])),
      );
    case "frozen":
      return model.forward(segment, held.slice(0, -1));
  }
}

/**
 * What is held after a segment, and (B) bool the rows that hold it: those that held something before, unless they start
 * a document here, and those that have read text, which BOS alone at a document's start is not.
 */
function heldAfter({ stateLayout }: EvaluatedModel, segment: SegmentTensors, held: State, memory: State): State {
  const goesOn = applyOperator("aten::logical_not", segment.reset);
  const holds = applyOperator("aten::logical_and", held.at(-1)!, goesOn);
  const tokens = applyOperator("aten::sum.dim_IntList", applyOperator("aten::ge.Scalar", segment.source, 0), [1]);
  const text = applyOperator("aten::gt.Tensor", tokens, segment.reset);
  return [
    ...memory.map((tensor, i) =>
      applyOperator(
        "aten::where.self",
        applyOperator("aten::view", holds, flagShape(segment.batch, stateLayout[i]!)),
        held[i]!,
        tensor,
      ),
    ),
    applyOperator("aten::logical_or", holds, text),
  ];
}
