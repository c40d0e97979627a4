/** Heads divided by their root mean square, by LibTorch's own operators. */
import { applyOperator, type Tensor } from "../../lib/index.ts";

/** Of x (..., E). */
export function normedHeads(x: Tensor): Tensor {
  const square = applyOperator("aten::mean.dim", applyOperator("aten::mul.Tensor", x, x), [-1], true);
  return applyOperator(
    "aten::mul.Tensor",
    x,
    applyOperator("aten::rsqrt", applyOperator("aten::add.Scalar", square, 1e-6)),
  );
}
