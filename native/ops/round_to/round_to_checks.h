// Checks of the arguments of round_to, on every device.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

inline void check_round_to(const at::Tensor& x, at::ScalarType dtype) {
  const auto given = x.scalar_type();
  require(given == at::kFloat || given == at::kDouble, "DTYPE", "round_to: x must be float32 or float64, got ",
          c10::toString(given));
  require(dtype == at::kBFloat16 || dtype == at::kHalf, "DTYPE", "round_to: dtype must be bfloat16 or float16, got ",
          c10::toString(dtype));
}

}  // namespace memformer::ops
