// Residual sum and LayerNorm in one pass over the rows. The last product's bias and dropout join on the way.
//   sum = x + dropout(branch + branch_bias)
//   normed = (sum - mean) / sqrt(variance + 1e-5) weight + bias      over the width D
// Letters: D width.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// x (..., D) float32, float64 or bfloat16 (on a GPU also float16); branch in x's shape, or undefined: sum is x itself;
/// branch_bias (D) in branch's dtype, or undefined, added without rounding; weight, bias (D) in x's dtype. The branch's
/// dropout is ops::dropout's with (p, seed, site), without its rounding; with p = 0 nothing is dropped and seed may be
/// undefined. Returns sum in x's dtype and normed in `dtype` (default: x's); mean and variance are computed in float32
/// (float64 for float64). Branch and `dtype` have x's dtype; beside a float32 x either may be bfloat16 or float16, but
/// not one of each. Differentiable once in x, branch, branch_bias, weight and bias. With a sink, (D) float32 (float64
/// for float64), the backward pass adds the gradient of weight, bias or branch_bias to it and returns none. On a GPU,
/// where all of these have sinks, the addition is deferred: do not read the sinks before synchronize_side_stream.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const std::optional<at::Tensor>& branch,
                                            const Trained& branch_bias, const Trained& weight, const Trained& bias,
                                            double p, const std::optional<at::Tensor>& seed, int64_t site,
                                            std::optional<at::ScalarType> dtype);

}  // namespace memformer::ops
