// From an operator's dropout arguments to its kernels' parameters.
#pragma once
#include "core/gradient_sink.h"
#include "ops/common/dropout_mask.cuh"

namespace memformer::cuda {

/// The seeds side by side, or none where nothing is dropped. They must live until the kernel is launched.
inline at::Tensor contiguous_seed(double p, const std::optional<at::Tensor>& seed) {
  return p > 0.0 && is_defined(seed) ? seed->contiguous() : at::Tensor();
}

/// Of the dropout of x's elements; `seed` from contiguous_seed.
inline ops::DropoutMask dropout_mask_of(const at::Tensor& x, double p, const at::Tensor& seed, int64_t site) {
  return seed.defined() ? ops::dropout_mask(p, seed.const_data_ptr<int64_t>(), seed.numel(), x.numel(), site)
                        : ops::DropoutMask{};
}

}  // namespace memformer::cuda
