// Folds LayerNorms of one tensor into the linear layers that follow them, which then read its standardized values z
// (layer_norm_no_affine.h):
//   (z diag(w_l) + b_l) W_l^T + c_l  =  z (W_l diag(w_l))^T + (c_l + W_l b_l)
// The normalized tensor then exists once instead of once per layer, and the layers' products become one.
// Letters: L layers, R outputs of a layer, D width.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// L layers as linear layers over z.
struct FoldedLinear {
  /// (R, D) and (R) each, in the dtype asked for; those of all layers lie side by side.
  std::vector<at::Tensor> weights, biases;
  /// The same in the dtype of sums, zeros: where their gradients are to be added. Empty without gradient.
  std::vector<at::Tensor> weight_sinks, bias_sinks;

  Trained weight(size_t layer) const { return {weights[layer], of(weight_sinks, layer)}; }
  Trained bias(size_t layer) const { return {biases[layer], of(bias_sinks, layer)}; }

 private:
  static std::optional<at::Tensor> of(const std::vector<at::Tensor>& sinks, size_t layer) {
    return sinks.empty() ? std::nullopt : std::optional(sinks[layer]);
  }
};

/// For every layer l: weights (R, D), biases (R) or none at all, norm_weights and norm_biases (D), all float32 or all
/// float64. `sinks`: one contiguous sink for each of them in that order (weights of all layers first), to which the
/// gradients are added, or none. dtype: theirs, or bfloat16 or float16 beside float32. Differentiable once, through the
/// gradients of the folded tensors and the contents of their sinks.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
FoldedLinear fold_layer_norm(at::TensorList weights, at::TensorList biases, at::TensorList norm_weights,
                             at::TensorList norm_biases, at::TensorList sinks, at::ScalarType dtype);

}  // namespace memformer::ops
