// y = x W^T + b, or gelu of it, for the few rows of a decoding step. On a CPU a row's numbers do not depend on the rows
// beside it, to the bit, which a matrix product of LibTorch's does not promise: a token decoded alone is the one
// decoded in a batch.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., in), weight (out, in), bias (out) or undefined, all of one dtype: float32, float64 or bfloat16, on a GPU
/// also float16. gelu: h/2 (1 + erf(h / sqrt(2))) of every sum, before it is rounded. Returns (..., out). Sums are
/// float32 (float64 of float64). Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor decode_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         bool gelu = false);

}  // namespace memformer::ops
