// The rows of an embedding table:  y_bt = weight[token_bt]
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// tokens (B, T) int64, negative (padding) read as token 0; weight (V, D) float32, float64 or bfloat16. Returns (B, T,
/// D) of weight's dtype. Differentiable once in weight. With a sink, (V, D) float32 (float64 for float64), the gradient
/// is added to it in the backward pass, and nothing is sent back. Throws SHAPE, DTYPE, DEVICE_MISMATCH, and on a CPU
/// TOKEN_RANGE for a token of V or more.
at::Tensor token_embedding(const at::Tensor& tokens, const at::Tensor& weight, const std::optional<at::Tensor>& sink);

}  // namespace memformer::ops
