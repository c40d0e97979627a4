// Gradients of keys and values of several layers, in one tensor that lies as the keys and values themselves do: so that
// the product behind them takes all of them at once, without a copy.
#pragma once
#include <utility>

#include "ops/common/keys_beside_values.h"

namespace memformer::cuda {

/// Where a kernel writes the gradients of k and v (B, H, N, E), which are side by side: in their own places of a tensor
/// laid out as the one that k and v are parts of. The first to ask makes it, it lives as long as any of the gradients
/// does, and no place is given out twice.
std::pair<at::Tensor, at::Tensor> gradients_side_by_side(const at::Tensor& k, const at::Tensor& v);

}  // namespace memformer::cuda
