// Linear layers behind LayerNorms of one tensor, folded into layers over its standardized numbers (ops/fold_norm): once
// a pass, or once for all passes of a step.
#pragma once
#include "nn/layers.h"

namespace memformer::nn {

struct NormedLinear {
  const LayerNorm* norm;
  at::Tensor weight;               ///< (R, D)
  std::optional<at::Tensor> bias;  ///< (R); all layers that are folded together have one, or none
};

/// The layers, told apart from others by the first weight.
const ops::FoldedNorms& folded(const std::vector<NormedLinear>& layers, Pass& pass);

}  // namespace memformer::nn
