/** The loss of a head of your own: what a step of a recurrence gives beside its state. */
import { apply, type Tensor } from "../engine/tensor.ts";
import { PADDING } from "../data/segment.ts";
import type { Step } from "./recurrence.ts";

const SUM = 2; // aten's Reduction

/**
 * The mean negative log-likelihood, nats, of the targets (B, T) under logits (B, T, V), and how many are scored:
 * padding is not. 0 where none is.
 */
export function tokenLoss(logits: Tensor, target: Tensor): Pick<Step, "loss" | "count"> {
  const wanted = apply("aten::_to_copy", target, "int64");
  const count = apply("aten::sum", apply("aten::ge.Scalar", wanted, 0));
  const nats = apply(
    "aten::cross_entropy_loss",
    apply("aten::flatten.using_ints", logits, 0, 1),
    apply("aten::flatten.using_ints", wanted, 0, 1),
    null,
    SUM,
    PADDING,
  );
  return { loss: apply("aten::div.Tensor", nats, apply("aten::clamp_min", count, 1)), count };
}
