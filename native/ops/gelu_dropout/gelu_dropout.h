// The activation of a feed-forward layer with the bias before it and the dropout after it, in one pass:
//   y = dropout(gelu(x + bias)),      gelu(h) = h/2 (1 + erf(h / sqrt(2)))
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., C) float32, float64 or bfloat16, of any shape without bias; bias (C) of x's dtype or undefined, added
/// without a rounding; dropout is ops::dropout's with (p, seed, site), without a rounding before it; p = 0: none, seed
/// may be undefined. Returns x's shape and dtype. Saves x and bias alone. Differentiable once in both; to bias_sink,
/// (C) float32 (float64 for float64), the gradient of the bias is added in the backward pass, and nothing is sent back.
/// On a GPU that addition is put off: nobody may read the sink before linear_join. Throws CONFIG, DTYPE, SHAPE,
/// DEVICE_MISMATCH.
at::Tensor gelu_dropout(const at::Tensor& x, const std::optional<at::Tensor>& bias,
                        const std::optional<at::Tensor>& bias_sink, double p, const std::optional<at::Tensor>& seed,
                        int64_t site);

}  // namespace memformer::ops
