// The joint between two sublayers: the bias and the dropout of what the sublayer's last product gave, the residual sum
// and the LayerNorm of it, in one pass over the rows.
//   sum = x + dropout(branch + branch_bias)      normed = (sum - mean) / sqrt(variance + 1e-5) weight + bias      (over
//   the width D)
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D) float32, float64 or bfloat16, on a GPU also float16; branch of x's shape, or undefined: sum is x itself;
/// branch_bias (D) of branch's dtype, or undefined, added without a rounding; weight, bias (D) of x's dtype. The
/// branch's dropout is ops::dropout's with (p, seed, site), without its rounding; p = 0: none, seed may be undefined.
/// Returns sum in x's dtype and normed in `dtype` (default: x's); mean and variance are taken in float32 (float64 for
/// float64). Branch and `dtype` have x's dtype, or beside a float32 x either may be bfloat16 or float16, but not one of
/// each. Differentiable once in x, branch, branch_bias, weight and bias. With a sink, (D) float32 (float64 for
/// float64), the gradient of weight, bias or branch_bias is added to it in the backward pass, and nothing is sent back.
/// On a GPU, where all of these have sinks, that addition is put off: nobody may read the sinks before linear_join.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const std::optional<at::Tensor>& branch,
                                            const std::optional<at::Tensor>& branch_bias, const at::Tensor& weight,
                                            const at::Tensor& bias, const std::optional<at::Tensor>& weight_sink,
                                            const std::optional<at::Tensor>& bias_sink,
                                            const std::optional<at::Tensor>& branch_bias_sink, double p,
                                            const std::optional<at::Tensor>& seed, int64_t site,
                                            std::optional<at::ScalarType> dtype);

}  // namespace memformer::ops
