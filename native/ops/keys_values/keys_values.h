// The keys and values that the layers of a stack draw from one context, in one product where their weights lie side by
// side.
//   [k_l, v_l] = context W_l^T + b_l        W_l (2 D, C): the keys' rows, then the values'
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// context (B, N, C); weights[l] (2 D, C), biases[l] (2 D), all float32, float64 or bfloat16 alike. weight_sinks and
/// bias_sinks: one a layer, float32 or float64, to which the gradients are added, or both empty. Returns 2 L tensors
/// (B, H, N, E), with `normed` the keys of each head over their root mean square (head_norm.h): k_0, v_0, k_1, v_1, …,
/// views whose last stride is 1. Differentiable once in context, weights and biases. Throws SHAPE, DTYPE,
/// DEVICE_MISMATCH, CONFIG.
std::vector<at::Tensor> keys_values(const at::Tensor& context, at::TensorList weights, at::TensorList biases,
                                    at::TensorList weight_sinks, at::TensorList bias_sinks, int64_t heads,
                                    bool normed = false);

}  // namespace memformer::ops
