// Biased memory normalization (BMN), the paper's forgetting: for every slot
//   s = memory + bias        y = s / max(||s||, eps)        (L2 over the whole width)
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// memory (B, M, D) float32, float64 or bfloat16; bias (M, D) of the same dtype. Returns (B, M, D) of that dtype; the norm is
/// taken in float32 (float64 for float64). Differentiable once in both. Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor biased_norm(const at::Tensor& memory, const at::Tensor& bias, double eps);

}  // namespace memformer::ops
