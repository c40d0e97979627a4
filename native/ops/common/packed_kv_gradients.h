// Gradients of the keys and values of several layers in one tensor with the layout of the keys and values themselves,
// so that the product that follows takes all of them at once, without a copy.
// Letters: B batch, H heads, N rows, E width of a head.
#pragma once
#include <utility>

#include "ops/common/packed_kv.h"

namespace memformer::cuda {

/// Views for the gradients of k and v (B, H, N, E), which must be adjacent: their places in a gradient tensor with the
/// layout of the tensor that k and v are views of. The first call makes that tensor, which lives as long as any of its
/// gradients; no place is given out twice.
std::pair<at::Tensor, at::Tensor> packed_kv_gradients(const at::Tensor& k, const at::Tensor& v);

}  // namespace memformer::cuda
