/** What lengths of rows mean, for the plain forms of operators that take them. */
import { applyOperator, type Tensor } from "../../lib/index.ts";

/**
 * The mask (B, 1, 1, M), with `causal` (B, 1, M, M), that shows each row's first keys: as many as `lengths` (B) says,
 * at least one. `keys` (B, M): any numbers of the keys' dtype.
 */
export function visibleKeys(lengths: Tensor, keys: Tensor, causal: boolean): Tensor {
  const place = applyOperator("aten::cumsum", applyOperator("aten::ones_like", keys), 1); // (B, M): 1 … M
  const most = applyOperator("aten::unsqueeze", applyOperator("aten::clamp_min", lengths, 1), 1);
  const raise = (x: Tensor, axis: number): Tensor => applyOperator("aten::unsqueeze", x, axis);
  const seen = raise(raise(applyOperator("aten::le.Tensor", place, most), 1), 1);
  if (!causal) return seen;
  return applyOperator(
    "aten::logical_and",
    seen,
    raise(applyOperator("aten::ge.Tensor", raise(place, 2), raise(place, 1)), 1),
  );
}
