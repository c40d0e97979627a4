// Checks of the arguments of limit_rows, on every device.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

inline void check_limit_rows(const at::Tensor& x, double decay, double limit) {
  require_floating("limit_rows", "x", x);
  require(x.dim() >= 1, "SHAPE", "limit_rows: x must have rows, got ", x.sizes());
  require(std::isfinite(decay), "CONFIG", "limit_rows: decay must be a number, got ", decay);
  require(limit > 0 && std::isfinite(limit), "CONFIG", "limit_rows: limit must be a number above 0, got ", limit);
}

}  // namespace memformer::ops
