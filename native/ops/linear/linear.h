// y = x W^T + b, the projection everything is made of, with all three products through core/matrix_product.h.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., in), weight (out, in), bias (out) or undefined, all float32, float64 or bfloat16 alike. Returns (..., out).
/// Differentiable once in all three. Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace memformer::ops
