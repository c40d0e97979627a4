// Checks of dropout's arguments, on any device.
#pragma once
#include "ops/common/dropout_seed.h"

namespace memformer::ops {

inline void check_dropout(const at::Tensor& x, double p, const at::Tensor& seed) {
  constexpr const char* kOp = "dropout";
  require_floating(kOp, "x", x);
  require(p >= 0.0 && p < 1.0, "CONFIG", "dropout: p must be at least 0 and below 1, got ", p);
  require_dropout_seed(kOp, seed, x);
}

}  // namespace memformer::ops
