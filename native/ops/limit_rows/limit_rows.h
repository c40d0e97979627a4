// Rows that are no longer than so many times the mean length, and damped: the memory's gradient at the border of two
// segments (nn/memory/border.h). With ||x_b|| the L2 norm over all numbers of row b:
//   y_b = decay x_b min(1, limit mean_b ||x_b|| / ||x_b||)
// Letters: B rows, n numbers of a row.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (B, ...) float32, float64 or bfloat16 (on a GPU also float16); limit above 0. Returns y in x's shape and dtype,
/// contiguous. Sums are float32 (float64 for float64). No gradient. Throws SHAPE, DTYPE, CONFIG.
at::Tensor limit_rows(const at::Tensor& x, double decay, double limit);

}  // namespace memformer::ops
