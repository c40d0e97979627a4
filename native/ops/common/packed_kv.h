// The layout that kv_projection gives keys and values, and expects of their gradients: the pairs of all layers are
// adjacent in (B, N, L, 2, H, E).
// Letters: B batch, N rows, L layers, H heads, E width of a head.
#pragma once
#include "core/torch.h"

namespace memformer {

/// Whether k and v (B, H, N, E) are one layer's pair, v right behind k; tokens may lie further apart.
inline bool is_packed_kv(const at::Tensor& k, const at::Tensor& v) {
  const int64_t width = k.size(1) * k.size(3);
  return k.sizes() == v.sizes() && k.strides() == v.strides() && k.stride(3) == 1 && k.stride(1) == k.size(3) &&
         k.stride(2) >= 2 * width && k.scalar_type() == v.scalar_type() && v.storage().is_alias_of(k.storage()) &&
         v.storage_offset() == k.storage_offset() + width;
}

/// k_0, v_0, k_1, v_1, … of consecutive layers as one matrix (B N, L 2 H E), a view; undefined where they do not have
/// this layout, or its rows have gaps.
inline at::Tensor packed_kv_rows(at::TensorList pairs) {
  const auto& first = pairs[0];
  const auto layers = static_cast<int64_t>(pairs.size() / 2);
  const int64_t B = first.size(0), N = first.size(2), width = 2 * first.size(1) * first.size(3) * layers;
  if (first.stride(2) != width || first.stride(0) != N * width) return {};
  for (int64_t l = 0; l < layers; ++l) {
    const auto &k = pairs[2 * l], &v = pairs[2 * l + 1];
    const bool follows = k.sizes() == first.sizes() && k.strides() == first.strides() &&
                         k.storage().is_alias_of(first.storage()) &&
                         k.storage_offset() == first.storage_offset() + l * width / layers;
    if (!follows || !is_packed_kv(k, v)) return {};
  }
  return first.as_strided({B * N, width}, {width, 1});
}

}  // namespace memformer
