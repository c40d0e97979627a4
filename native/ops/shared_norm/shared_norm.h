// Layer normalization of one tensor for several layers at once: they share its statistics, each has its own weight and bias.
//   y_l = (x - mean) / sqrt(var + eps) w_l + b_l        eps 1e-5
// The layers that read the memory each normalize it: apart, they would read it as often as there are layers, forward and backward.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D) float32 or float64; weights[l], biases[l] (D) of the same dtype; sinks: one a layer, to which the gradients are added, or
/// both empty. Returns L tensors (..., D) in `dtype`: x's own, or bfloat16 or float16 beside a float32 x. Differentiable once in x,
/// weights and biases. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::vector<at::Tensor> shared_norm(const at::Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList weight_sinks,
                                    at::TensorList bias_sinks, at::ScalarType dtype);

}  // namespace memformer::ops
