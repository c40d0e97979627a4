// Biased memory normalization (BMN), the paper's forgetting: for every slot
//   s = memory + bias        y = s / max(||s||, eps)        (L2 over the whole width)
// A row that starts anew has a memory of zeros here, so that its slots become bias / ||bias||.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// memory (B, M, D) float32, float64 or bfloat16; bias (M, D) of the same dtype; reset (B) bool, the rows that start anew, or none. Returns
/// (B, M, D) of that dtype; the norm is taken in float32 (float64 for float64). Differentiable once in memory and bias. Throws SHAPE, DTYPE,
/// DEVICE_MISMATCH.
at::Tensor biased_norm(const at::Tensor& memory, const at::Tensor& bias, double eps, const std::optional<at::Tensor>& reset = {});

}  // namespace memformer::ops
