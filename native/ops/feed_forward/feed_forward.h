// The two products of a feed-forward layer and the activation between them:
//   y = dropout(gelu(x up^T + up_bias)) down^T + down_bias
// Letters: D width in, F width inside, out width out.
// It is one operator so that a GPU can fuse the activation, and its gradient, into the product before it. Elsewhere it
// is composed of linear, gelu_dropout and linear, with the same bits.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// x (..., D), up (F, D), up_bias (F), down (out, F), down_bias (out) or undefined, all of one dtype that linear takes.
/// Returns (..., out). Dropout as in gelu_dropout, with (p, seed, site). Differentiable once in all five; saves x, x
/// up^T and the activation, each in x's dtype. Sinks in the shapes of up, up_bias, down and down_bias, float32 (float64
/// for float64), contiguous, or undefined: the backward pass adds the gradients to them and returns none; a
/// sink of down_bias needs one of down. On a GPU the additions are deferred: do not read the sinks before
/// synchronize_side_stream. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor feed_forward(const at::Tensor& x, const Trained& up, const Trained& up_bias, const Trained& down,
                        const Trained& down_bias, double p, const std::optional<at::Tensor>& seed, int64_t site);

/// Whether a GPU's fused kernels take x (..., D) and down (out, F): on compute capability 9.0 (H100, H200), in bfloat16
/// or float16, without dropout, from 256 rows on, with out = D at most 512, and D and F multiples of 8 and at least 64.
bool feed_forward_is_fused(const at::Tensor& x, const at::Tensor& down, double p);

}  // namespace memformer::ops
