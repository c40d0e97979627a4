// The feed-forward layer of a decoding step, from the residual stream to its branch without bias:
//   branch' = gelu(up(norm(x + branch))) W_down^T
// Exactly decode_normed_linear and then decode_linear. On a GPU of compute capability 9.0 few rows are one kernel,
// which leaves the product in shares: whoever reads it adds them, to the same bits. Letters: R rows, D width, F inner
// width.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D), branch, branch_bias, norm_weight, norm_bias: as decode_normed_linear's; up_weight (F, D), up_bias (F) or
/// undefined, down_weight (D, F) of one dtype, also narrower than x. Returns the stream x + branch + branch_bias in x's
/// dtype, x itself without a branch, and the next branch: (..., D) in the weights' dtype, or in shares
/// (ops/decode_linear: decode_add_shares), (..., 8, D) float32: where weights and branch are bfloat16 or float16 and x
/// is float32, D 256 or 512, F 4 D, and there are at most 8 rows; MEMFORMER_DECODE_SHARED_ROWS sets fewer, 0 turns it
/// off. settled: all but x and branch has been there since before the last kernel that was enqueued, so that a GPU may
/// begin to read it while that one runs. Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor> decode_feed_forward(const at::Tensor& x, const std::optional<at::Tensor>& branch,
                                                       const std::optional<at::Tensor>& branch_bias,
                                                       const at::Tensor& norm_weight, const at::Tensor& norm_bias,
                                                       const at::Tensor& up_weight,
                                                       const std::optional<at::Tensor>& up_bias,
                                                       const at::Tensor& down_weight, bool settled = false);

}  // namespace memformer::ops
