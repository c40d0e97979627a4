// Biased memory normalization (BMN), the paper's forgetting: for every slot
//   s = memory + bias        y = s / max(||s||, eps)        (L2 over the whole width)
// A row that starts anew has a memory of zeros here, so that its slots become bias / ||bias||. A row whose segment had
// no token keeps its memory to the bit.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// memory (B, M, D) float32, float64 or bfloat16 (on a GPU also float16); bias (M, D) of the same dtype; reset (B)
/// bool, the rows that start anew, or none; lengths (B) int32, tokens of each row's segment, or none: every row has
/// some. A row of length 0 that does not start anew returns its memory. Returns (B, M, D) of that dtype; the norm is
/// taken in float32 (float64 for float64). Differentiable once in memory and bias. Throws SHAPE, DTYPE,
/// DEVICE_MISMATCH.
at::Tensor biased_norm(const at::Tensor& memory, const at::Tensor& bias, double eps,
                       const std::optional<at::Tensor>& reset = {}, const std::optional<at::Tensor>& lengths = {});

}  // namespace memformer::ops
