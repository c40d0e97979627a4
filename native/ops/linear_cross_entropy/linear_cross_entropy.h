// Output projection and cross-entropy in one: the logits live a chunk of rows at a time, never as (tokens, V).
//   loss_g = mean over the scored rows n of group g of  logsumexp(z_n) - z_n[target_n]        z_n = h_n W^T + b
//   total = sum over g of  weight_g loss_g
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// hidden (N, D), weight (V, D) and bias (V) or undefined, all of one dtype; target (N) int64, negative: not scored;
/// the rows fall into G equal groups, whose weights are loss_weights (G), float32 (float64 for float64); `chunk` rows a
/// time, at least 1. Returns total () and, for each group, loss (G) in nats, 0 where no row is scored, both in
/// loss_weights' dtype, and count (G) int64, its rows scored. total is differentiable once in hidden, weight and bias;
/// loss and count are not. With a sink, (V, D) float32 (float64 for float64), the gradient of weight is added to it in
/// the backward pass, and nothing is sent back; so with the bias and bias_sink (V). The gradients of total are formed
/// in the forward pass while a chunk's logits are there, and multiplied by dL/dtotal in the backward. Throws SHAPE,
/// DTYPE, DEVICE_MISMATCH, CONFIG, and on a CPU TOKEN_RANGE for a target of V or more.
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_cross_entropy(
    const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& target,
    const at::Tensor& loss_weights, const std::optional<at::Tensor>& sink, const std::optional<at::Tensor>& bias_sink,
    int64_t chunk);

}  // namespace memformer::ops
