// LayerNorm's first half, for tensors that several layers read: what each makes of it by its own weight and bias is
// folded into the weights of the product that follows (fold_norm.h), so that one narrow copy of x serves all of them.
//   z = (x - mean(x)) / sqrt(var(x) + 1e-5)      over the last axis
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D) float32 or float64; `readers` 1 to 4; dtype: x's, or bfloat16 or float16 beside a float32 x. Returns 1 +
/// readers tensors in x's shape: x itself, and z in `dtype` once a reader. They share their memory: a tensor for each
/// use, so that the backward pass adds up their gradients in one go, in x's dtype. Differentiable once in x. Throws
/// SHAPE, DTYPE, CONFIG.
std::vector<at::Tensor> standardize(const at::Tensor& x, int64_t readers, at::ScalarType dtype);

}  // namespace memformer::ops
