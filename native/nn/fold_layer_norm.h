// Folds the LayerNorms of one tensor into the linear layers that read it, which then take its standardized values
// (ops/fold_layer_norm): once per pass, or once for all passes of a step; without gradient once for all passes until
// weights change.
// Letters: D width, R outputs of a layer.
#pragma once
#include "nn/layers.h"

namespace memformer::nn {

struct NormedLinear {
  const LayerNorm* norm;
  at::Tensor weight;               ///< (R, D)
  std::optional<at::Tensor> bias;  ///< (R); all layers that are folded together have one, or none
};

/// The layers, told apart from others by the first weight.
const ops::FoldedLinear& fold_layer_norm(const std::vector<NormedLinear>& layers, ForwardContext& ctx);

}  // namespace memformer::nn
