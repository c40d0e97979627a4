// Keys and values in memory as the two parts of one (B, N, 2, H, E): as keys_values makes them, and wants their gradients.
#pragma once
#include "core/torch.h"

namespace memformer {

/// Whether k and v (B, H, N, E) are such parts; tokens may lie further apart.
inline bool are_side_by_side(const at::Tensor& k, const at::Tensor& v) {
  const int64_t width = k.size(1) * k.size(3);
  return k.sizes() == v.sizes() && k.strides() == v.strides() && k.stride(3) == 1 && k.stride(1) == k.size(3) && k.stride(2) >= 2 * width &&
         k.scalar_type() == v.scalar_type() && v.storage().is_alias_of(k.storage()) && v.storage_offset() == k.storage_offset() + width;
}

/// Such k and v as one matrix (B N, 2 H E), a view; undefined where they are none or the rows have gaps.
inline at::Tensor rows_side_by_side(const at::Tensor& k, const at::Tensor& v) {
  const int64_t B = k.size(0), N = k.size(2), width = 2 * k.size(1) * k.size(3);
  if (!are_side_by_side(k, v) || k.stride(2) != width || k.stride(0) != N * width) return {};
  return k.as_strided({B * N, width}, {width, 1});
}

}  // namespace memformer
