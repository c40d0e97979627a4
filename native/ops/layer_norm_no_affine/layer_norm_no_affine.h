// LayerNorm without weight and bias, for a tensor that several layers read. Each reader's weight and bias are folded
// into the product that follows (fold_layer_norm.h), so one narrow copy of x serves all of them.
//   z = (x - mean(x)) / sqrt(var(x) + 1e-5)      over the last axis, of width D
// Letters: D width.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D) float32 or float64; `readers` 1 to 4; dtype: x's, or bfloat16 or float16 beside a float32 x. Returns 1 +
/// readers tensors in x's shape: x itself, and z in `dtype` once per reader. The copies of z share memory: there is one
/// tensor per use so that the backward pass sums their gradients in one pass, in x's dtype. Differentiable once in x.
/// Throws SHAPE, DTYPE, CONFIG.
std::vector<at::Tensor> layer_norm_no_affine(const at::Tensor& x, int64_t readers, at::ScalarType dtype);

}  // namespace memformer::ops
