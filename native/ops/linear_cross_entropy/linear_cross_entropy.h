// Output projection and cross-entropy in one: the logits live a chunk of rows at a time, never as (tokens, V).
//   loss = sum over scored rows n of  logsumexp(h_n W^T) - (h_n W^T)[target_n]
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// hidden (N, D) and weight (V, D) of one dtype; target (N) int64, negative: not scored; `chunk` rows a time, at least 1.
/// Returns loss (), the *sum* of the negative log-likelihoods in nats (float32, float64 for float64), and count () int64, the
/// rows scored. Differentiable once in hidden and weight; both gradients are formed in the forward pass while a chunk's logits
/// are there, and only scaled in the backward. Throws SHAPE, DTYPE, CONFIG, and TOKEN_RANGE for a target of V or more.
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& target,
                                                        int64_t chunk);

}  // namespace memformer::ops
