// Heads as attention's kernels read and write them.
// Letters: B batch, H heads, E width of a head.
#pragma once
#include <ATen/ATen.h>

#include <utility>

#include "core/cuda/packed.h"
#include "ops/attention/attention.cuh"
#include "ops/common/packed_kv_gradients.h"

namespace memformer::ops {

/// x (B, H, rows, E) in strides that the kernels can read; a copy only of what has none.
inline at::Tensor readable(const at::Tensor& x) {
  const auto eight = [&](int64_t axis) { return x.stride(axis) % 8 == 0 || x.size(axis) == 1; };
  const bool fits = x.stride(3) == 1 && eight(0) && eight(1) && eight(2) && cuda::is_aligned(x);
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}

inline AttentionHeads attention_heads(const at::Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

/// A tensor (B, H, rows, E) for a kernel to write, token by token in memory.
inline at::Tensor by_token(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

/// Two of them for the gradients of k and v, side by side if those are: with the gradients of the other layers that lie
/// beside them too.
inline std::pair<at::Tensor, at::Tensor> by_token(const at::Tensor& k, const at::Tensor& v) {
  if (!is_packed_kv(k, v)) return {by_token(k), by_token(v)};
  return cuda::packed_kv_gradients(k, v);
}

}  // namespace memformer::ops
