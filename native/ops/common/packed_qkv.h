// A fused QKV projection (B, T, 3 D): its parts, and the checks that operators with rotary positions share.
// Letters: B batch, T tokens, D width, H heads, E = D / H.
#pragma once
#include "core/gradient_sink.h"

namespace memformer {

/// Part 0, 1 or 2 (Q, K or V) of the packed (B, T, 3 D), as a view (B, H, T, E).
inline at::Tensor part_of(const at::Tensor& packed, int64_t part, int64_t heads) {
  return packed.view({packed.size(0), packed.size(1), 3, heads, packed.size(2) / (3 * heads)})
      .select(2, part)
      .transpose(1, 2);
}

inline void check_rotary(const char* op, const at::Tensor& qkv, const std::optional<at::Tensor>& bias,
                         const std::optional<at::Tensor>& bias_sink, const at::Tensor& cos, const at::Tensor& sin,
                         int64_t heads) {
  require_floating(op, "qkv", qkv);
  require_shape(op, "qkv", qkv, {-1, -1, -1});
  require(heads > 0 && qkv.size(2) % (6 * heads) == 0, "CONFIG", op,
          ": qkv's width must be 3 x heads x an even number, got ", qkv.size(2), " with ", heads, " heads");
  require(is_defined(bias) || !is_defined(bias_sink), "CONFIG", op, ": a bias_sink needs a bias");
  if (is_defined(bias)) {
    require_shape(op, "bias", *bias, {qkv.size(2)});
    require_like(op, "bias", *bias, "qkv", qkv);
    require_sink(op, "bias_sink", bias_sink, qkv.size(2), qkv);
  }
  const int64_t T = qkv.size(1), half = qkv.size(2) / (6 * heads);
  const auto angles = [&](const char* name, const at::Tensor& table) {
    require_shape(op, name, table, {T, half});
    require_dtype(op, name, table, accumulate_type(qkv.scalar_type()));
    require(table.device() == qkv.device(), "DEVICE_MISMATCH", op, ": ", name, " must be on qkv's device ",
            qkv.device().str(), ", got ", table.device().str());
  };
  angles("cos", cos);
  angles("sin", sin);
}

}  // namespace memformer
