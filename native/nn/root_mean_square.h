// x / sqrt(mean(x^2) + eps) over the last axis, summed in the dtype of sums and returned in that of x.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::nn {

inline at::Tensor over_root_mean_square(const at::Tensor& x) {
  constexpr double kEps = 1e-6;
  const auto wide = x.to(accumulate_type(x.scalar_type()));
  return (wide * (wide.square().mean(-1, true) + kEps).rsqrt()).to(x.scalar_type());
}

/// The same for each of `heads` chunks of the last axis: (B, N, D) -> (B, N, D).
inline at::Tensor over_root_mean_square(const at::Tensor& x, int64_t heads) {
  return over_root_mean_square(x.view({x.size(0), x.size(1), heads, x.size(2) / heads})).view(x.sizes());
}

}  // namespace memformer::nn
