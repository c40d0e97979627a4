// Scaled dot-product attention for short segments on a CPU:  softmax(q k^T / sqrt(E)) v.
// LibTorch's fused kernel calls a matrix product for every head of every row; at the length of a segment these are so small that
// starting them costs more than they do. Here each product is one call for all heads of all rows.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// q (B, H, N, E), k and v (B, H, M, E), all float32, float64 or bfloat16 alike, of any strides. mask bool, true where query i may
/// see key j, of shape (B or 1, 1, N or 1, M), or undefined: all may. Every query must see a key. Returns (B, H, N, E).
/// Holds the weights (B, H, N, M) for backward. Differentiable once in q, k, v. Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& mask);

}  // namespace memformer::ops
