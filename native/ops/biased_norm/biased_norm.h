// Biased memory normalization (BMN), the paper's forgetting. For every slot
//   s = memory + bias        y = s / max(||s||, eps)        (L2 over the whole width D)
// Letters: B batch, M slots, D width.
// A row that starts a document has a memory of zeros here, so its slots become bias / ||bias||. A row whose segment has
// no tokens keeps its memory to the bit.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// memory (B, M, D) float32, float64 or bfloat16 (on a GPU also float16); bias (M, D) in the same dtype; reset (B)
/// bool, the rows that start a document, or none; lengths (B) int32, the tokens of each row's segment, or none: every
/// row has some. A row of length 0 that does not start a document returns its memory. Returns (B, M, D) in that dtype;
/// the norm is computed in float32 (float64 for float64). Differentiable once in memory and bias.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor biased_norm(const at::Tensor& memory, const at::Tensor& bias, double eps,
                       const std::optional<at::Tensor>& reset = {}, const std::optional<at::Tensor>& lengths = {});

}  // namespace memformer::ops
