// Numbers as a narrower dtype would keep them, in their own dtype: a state between two segments that are read in one
// step, which is what saving it in that dtype and reading it again would make of it.
//   y = x rounded to nearest, ties to even; float64 by way of float32
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x of any shape, float32 or float64; dtype bfloat16 or float16. Returns y in x's shape and dtype, contiguous. No
/// gradient. Throws DTYPE.
at::Tensor round_to(const at::Tensor& x, at::ScalarType dtype);

}  // namespace memformer::ops
