// A parameter as an operator's C++ function takes it. The registered operator has value and sink apart.
#pragma once
#include <optional>

#include "core/torch.h"

namespace memformer {

struct Trained {
  at::Tensor value;                     ///< what is computed with; undefined: the operator does without it
  std::optional<at::Tensor> sink = {};  ///< what its gradient is added to; none: autograd gets it

  std::optional<at::Tensor> optional() const { return value.defined() ? std::optional(value) : std::nullopt; }
};

}  // namespace memformer
