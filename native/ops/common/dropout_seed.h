// The seeds of a dropout: one for all of a tensor, or G of them, each for one of G equal shares of its elements.
#pragma once
#include "core/tensor_checks.h"

namespace memformer {

inline void require_dropout_seed(const char* op, const at::Tensor& seed, const at::Tensor& x) {
  const bool divides = seed.dim() == 0 || (seed.dim() == 1 && seed.size(0) > 0 && x.numel() % seed.size(0) == 0);
  require(divides, "SHAPE", op, ": seed must have shape () or (G), where G divides the ", x.numel(),
          " numbers of x, got ", seed.sizes());
  require_dtype(op, "seed", seed, at::kLong);
  require(seed.device() == x.device(), "DEVICE_MISMATCH", op, ": seed must be on x's device ", x.device().str(),
          ", got ", seed.device().str());
}

}  // namespace memformer
