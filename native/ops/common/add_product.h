// The sums that accumulate gradients of weights.
#pragma once
#include "core/torch.h"

namespace memformer::cuda {

/// sums (out, in) = before sums + grad^T x.   grad (n, out), x (n, in): both in sums' dtype, or both in one narrower
/// dtype. With before 0, sums is not read.
inline void add_product(at::Tensor sums, const at::Tensor& grad, const at::Tensor& x, double before = 1) {
  if (sums.scalar_type() == grad.scalar_type())
    at::addmm_out(sums, sums, grad.t(), x, before, 1);
  else
    at::addmm_out(sums, sums, grad.t(), x, sums.scalar_type(), before, 1);
}

}  // namespace memformer::cuda
