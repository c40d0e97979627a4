// States that are zero at the start of a document, by their layout.
// Letters: B batch.
#pragma once
#include "core/failure.h"
#include "nn/state.h"

namespace memformer::nn {

/// The shape of a part for B rows: (B, ...).
inline std::vector<int64_t> shape_for(const StatePart& part, int64_t B) {
  auto shape = part.shape;
  shape.insert(shape.begin(), B);
  return shape;
}

/// The start of B rows.
inline State zero_state(const StateLayout& layout, int64_t B, at::Device device) {
  State state;
  for (const auto& part : layout) state.push_back(at::zeros(shape_for(part, B), at::dtype(part.dtype).device(device)));
  return state;
}

/// A state of one row, which all B of them read, as one of B.
inline State of_rows(State state, int64_t B) {
  for (auto& part : state) {
    auto shape = part.sizes().vec();
    shape[0] = B;
    part = part.expand(shape);
  }
  return state;
}

/// Every part of the state has its shape for B rows. Throws SHAPE, naming the first that has not.
inline void require_parts(const StateLayout& layout, const State& state, int64_t B) {
  for (size_t i = 0; i < layout.size(); ++i) {
    const auto shape = shape_for(layout[i], B);
    require(state[i].sizes() == shape, "SHAPE", "the state's ", layout[i].name, " must be ", at::IntArrayRef(shape),
            ", got ", state[i].sizes());
  }
}

}  // namespace memformer::nn
