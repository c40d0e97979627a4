// The rows of an embedding table:  y_bt = weight[token_bt]
// Letters: B batch, T tokens, V vocabulary, D width.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// tokens (B, T) int64, negative (padding) read as token 0; weight (V, D) float32, float64 or bfloat16 (on a GPU also
/// float16). Returns (B, T, D) in weight's dtype. Differentiable once in weight. With a sink, (V, D) float32 (float64
/// for float64), the backward pass adds the gradient to it and returns none.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, and on a CPU TOKEN_RANGE for a token of V or more.
at::Tensor token_embedding(const at::Tensor& tokens, const Trained& weight);

}  // namespace memformer::ops
