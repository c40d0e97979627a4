/** What lengths of rows mean, for the plain forms of operators that take them. */
import { apply, type Tensor } from "../../lib/index.ts";

/**
 * The mask (B, 1, 1, M), with `causal` (B, 1, M, M), that shows each row's first keys: as many as `lengths` (B) says,
 * at least one. `keys` (B, M): any numbers of the keys' dtype.
 */
export function visibleKeys(lengths: Tensor, keys: Tensor, causal: boolean): Tensor {
  const place = apply("aten::cumsum", apply("aten::ones_like", keys), 1); // (B, M): 1 … M
  const most = apply("aten::unsqueeze", apply("aten::clamp_min", lengths, 1), 1);
  const raise = (x: Tensor, axis: number): Tensor => apply("aten::unsqueeze", x, axis);
  const seen = raise(raise(apply("aten::le.Tensor", place, most), 1), 1);
  if (!causal) return seen;
  return apply("aten::logical_and", seen, raise(apply("aten::ge.Tensor", raise(place, 2), raise(place, 1)), 1));
}
