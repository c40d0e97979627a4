// Heads as attention's kernels read and write them, of tensors.
#pragma once
#include <ATen/ATen.h>

#include <utility>

#include "core/keys_beside_values.h"
#include "ops/attention/attention.cuh"

namespace memformer::ops {

inline bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0; }

/// x (B, H, rows, E) in strides that the kernels can read; a copy only of what has none.
inline at::Tensor readable(const at::Tensor& x) {
  const auto eight = [&](int64_t axis) { return x.stride(axis) % 8 == 0 || x.size(axis) == 1; };
  const bool fits = x.stride(3) == 1 && eight(0) && eight(1) && eight(2) && is_aligned(x);
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}

inline AttentionHeads attention_heads(const at::Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

/// A tensor (B, H, rows, E) for a kernel to write, token by token in memory.
inline at::Tensor by_token(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

/// Two of them for the gradients of k and v, side by side if those are.
inline std::pair<at::Tensor, at::Tensor> by_token(const at::Tensor& k, const at::Tensor& v) {
  if (!are_side_by_side(k, v)) return {by_token(k), by_token(v)};
  const auto both = at::empty({k.size(0), k.size(2), 2, k.size(1), k.size(3)}, k.options());
  return {both.select(2, 0).transpose(1, 2), both.select(2, 1).transpose(1, 2)};
}

}  // namespace memformer::ops
