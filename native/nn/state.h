// What a model carries from segment to segment, and the layout by which everything outside the model handles it.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "core/torch.h"

namespace memformer::nn {

/// The parts of a model's state, in the order of its layout; the first axis of each is the batch, B.
using State = std::vector<at::Tensor>;

/// One part of a state.
struct StatePart {
  std::string name;
  std::vector<int64_t> shape;  ///< without the batch axis
  at::ScalarType dtype;
  bool differentiable;  ///< whether gradients flow through it from segment to segment; floating point alone may
};
using StateLayout = std::vector<StatePart>;

/// How many parts are differentiable.
inline size_t differentiable_parts(const StateLayout& layout) {
  return std::count_if(layout.begin(), layout.end(), [](const auto& part) { return part.differentiable; });
}

/// Of tensors that follow a layout, those of its differentiable parts.
inline State differentiable(const StateLayout& layout, const State& state) {
  State parts;
  for (size_t i = 0; i < state.size(); ++i)
    if (layout.at(i).differentiable) parts.push_back(state[i]);
  return parts;
}

}  // namespace memformer::nn
