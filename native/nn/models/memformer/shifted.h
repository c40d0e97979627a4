// Teacher forcing: a causal stack's input is its target, moved right by one behind a first token.
// Letters: B batch, T tokens of a segment.
#pragma once
#include "core/torch.h"

namespace memformer::nn {

/// first (B, 1), target (B, T) -> (B, T): [first, target without its last]. Padding inside stays padding.
inline at::Tensor shifted(const at::Tensor& first, const at::Tensor& target) {
  return at::cat({first, target.narrow(1, 0, target.size(1) - 1)}, 1);
}

}  // namespace memformer::nn
