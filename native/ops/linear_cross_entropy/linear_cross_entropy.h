// Output projection and cross-entropy in one: the logits exist for one chunk of rows at a time, never as (N, V).
//   loss_g = mean over the scored rows n of group g of  logsumexp(z_n) - z_n[target_n]        z_n = h_n W^T + b
//   total = sum over g of  weight_g loss_g
// Letters: N rows (tokens), D width, V vocabulary, G groups (segments).
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// hidden (N, D), weight (V, D) and bias (V) or undefined, all of one dtype: float32, float64 or bfloat16 (on a GPU
/// also float16); target (N) int64, negative: not scored; the rows fall into G equal groups, weighted by loss_weights
/// (G), float32 (float64 for float64); `chunk` rows at a time, at least 1. Returns total () and, for each group, loss
/// (G) in nats, 0 where no row is scored, both in loss_weights' dtype, and count (G) int64, its scored rows. total is
/// differentiable once in hidden, weight and bias; loss and count are not. With sinks, (V, D) and (V) float32 (float64
/// for float64), the backward pass adds the gradients of weight and bias to them and returns none. The
/// forward pass forms the gradients of total while a chunk's logits exist; the backward pass multiplies them by
/// dL/dtotal.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG, and on a CPU TOKEN_RANGE for a target of V or more.
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const Trained& weight,
                                                                    const Trained& bias, const at::Tensor& target,
                                                                    const at::Tensor& loss_weights, int64_t chunk);

}  // namespace memformer::ops
