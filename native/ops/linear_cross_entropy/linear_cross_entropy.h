// Output projection and cross-entropy in one: the logits live a chunk of rows at a time, never as (tokens, V).
//   loss = sum over scored rows n of  logsumexp(z_n) - z_n[target_n]        z_n = h_n W^T + b
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// hidden (N, D), weight (V, D) and bias (V) or undefined, all of one dtype; target (N) int64, negative: not scored; the rows fall into `groups` equal groups;
/// `chunk` rows a time, at least 1. Returns, for each group, loss (G), the *sum* of its negative log-likelihoods in nats (float32,
/// float64 for float64), and count (G) int64, its rows scored. Differentiable once in hidden, weight and bias. With a sink, (V, D)
/// float32 (float64 for float64), the gradient of weight is added to it in the backward pass, and nothing is sent back; so with the
/// bias and bias_sink (V). On a CPU the gradients are formed in the forward pass while a chunk's logits are there, and only scaled in the backward; on a GPU, where logits are cheap
/// to have again and (V, D) is dear to keep, they are formed in the backward. Throws SHAPE, DTYPE, CONFIG, and on a CPU TOKEN_RANGE for a
/// target of V or more.
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                        const std::optional<at::Tensor>& bias, const at::Tensor& target,
                                                        const std::optional<at::Tensor>& sink, const std::optional<at::Tensor>& bias_sink,
                                                        int64_t groups, int64_t chunk);

}  // namespace memformer::ops
