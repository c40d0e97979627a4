/** The loss of a head of your own: what a step of a recurrence gives beside its state. */
import { applyOperator, type Tensor } from "../engine/tensor.ts";
import { PADDING } from "../data/segment.ts";
import type { Step } from "./recurrence.ts";

const SUM = 2; // aten's Reduction

/**
 * The mean negative log-likelihood, nats, of the targets (B, T) under logits (B, T, V), and how many are scored:
 * padding is not. 0 where none is.
 */
export function tokenLoss(logits: Tensor, target: Tensor): Pick<Step, "loss" | "count"> {
  const wanted = applyOperator("aten::_to_copy", target, "int64");
  const count = applyOperator("aten::sum", applyOperator("aten::ge.Scalar", wanted, 0));
  const nats = applyOperator(
    "aten::cross_entropy_loss",
    applyOperator("aten::flatten.using_ints", logits, 0, 1),
    applyOperator("aten::flatten.using_ints", wanted, 0, 1),
    null,
    SUM,
    PADDING,
  );
  return { loss: applyOperator("aten::div.Tensor", nats, applyOperator("aten::clamp_min", count, 1)), count };
}
