// y = x W^T + b, or gelu of it, for the few rows of a decoding step, and the same behind a residual sum and LayerNorm.
// A row's numbers do not depend on the rows beside it, to the bit, which a matrix product of LibTorch's does not
// promise: a token decoded alone is the one decoded in a batch.
// Letters: D numbers of a row of the result.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., in), weight (out, in), bias (out) or undefined, all of one dtype: float32, float64 or bfloat16, on a GPU
/// also float16. gelu: h/2 (1 + erf(h / sqrt(2))) of every sum, before it is rounded. Returns (..., out). Sums are
/// float32 (float64 of float64), rounded to that dtype, and handed out in `dtype`, by default the same. settled: weight
/// and bias have been there since before the last kernel that was enqueued, so that a GPU may begin to read them while
/// that one runs. Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor decode_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         bool gelu = false, bool settled = false, std::optional<at::ScalarType> dtype = {});

/// decode_linear of add_norm (ops/add_norm): sum = x + branch + branch_bias, y = linear(norm(sum)). x (..., in)
/// float32, float64 or bfloat16, norm_weight, norm_bias (in) in x's dtype; branch in x's shape or undefined, or a
/// branch of weight's dtype in shares (decode_add_shares), (..., 8, in) float32: the same to the bit as of the shares'
/// sum; branch_bias (in) in branch's dtype or undefined; weight (out, in) and bias (out) as decode_linear's, also
/// narrower than x, which is where the normed rows are rounded. Returns sum in x's dtype, x itself without a branch,
/// and y (..., out) in weight's, or in `dtype` as decode_linear's. On a GPU one kernel of up to 16 rows, and two of
/// more, where weight is bfloat16 or float16, x float32, in a multiple of 32 and at most 1024. settled: all but x and
/// branch. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor> decode_normed_linear(const at::Tensor& x, const std::optional<at::Tensor>& branch,
                                                        const std::optional<at::Tensor>& branch_bias,
                                                        const at::Tensor& norm_weight, const at::Tensor& norm_bias,
                                                        const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                                        bool gelu = false, bool settled = false,
                                                        std::optional<at::ScalarType> dtype = {});

/// The product that some operators leave in shares, each a part of the inner axis: shares (..., 8, D) float32, added in
/// their order from zero and rounded to dtype, (..., D). The bits are those of decode_linear. Without gradient. Throws
/// SHAPE, DTYPE.
at::Tensor decode_add_shares(const at::Tensor& shares, at::ScalarType dtype);

}  // namespace memformer::ops
