// Keys and values that the layers of a stack project from one context, in one product where their weights are adjacent
// in memory.
//   [k_l, v_l] = context W_l^T + b_l        W_l (2 D, C): the keys' rows, then the values'
// Letters: B batch, N rows of the context, C its width, L layers, D width, H heads, E = D / H.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// context (B, N, C); weights[l] (2 D, C), biases[l] (2 D), all of one dtype: float32, float64 or bfloat16 (on a GPU
/// also float16). weight_sinks and bias_sinks: one per layer, float32 (float64 for float64), to which the gradients are
/// added, or both empty. Returns 2 L tensors (B, H, N, E): k_0, v_0, k_1, v_1, …, views whose last stride is 1. With
/// `normed` the keys of each head are divided by their root mean square (head_norm.h). Differentiable once in context,
/// weights and biases.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::vector<at::Tensor> kv_projection(const at::Tensor& context, at::TensorList weights, at::TensorList biases,
                                      at::TensorList weight_sinks, at::TensorList bias_sinks, int64_t heads,
                                      bool normed = false);

}  // namespace memformer::ops
