// The layers as their parts one after the other, on a CPU and on a GPU, and what they ask of their own arguments. Parts
// are called by name: their functions may be in the other shared object. Letters: D width, H heads, E = D / H.
#pragma once
#include "core/op_handle.h"
#include "core/tensor_checks.h"
#include "ops/decode_linear/decode_linear_ops.h"

namespace memformer::ops {

/// A layer's norm and projection, as decode_normed_linear takes them. `kinds`: 1 of queries, 3 of queries, keys and
/// values; of these, queries and keys are normed by head with `norm_heads`.
struct ProjectedRows {
  const at::Tensor& x;
  const std::optional<at::Tensor>&branch, &branch_bias;
  const at::Tensor &norm_weight, &norm_bias, &weight;
  const std::optional<at::Tensor>& bias;
  int64_t kinds;
  bool norm_heads;
};

/// Everything else is checked by the parts.
inline void check_decode_attention_layer(const char* op, const ProjectedRows& rows, const at::Tensor& keys,
                                         const at::Tensor& weight) {
  require_shape(op, "keys", keys, {-1, -1, -1, -1});
  const int64_t D = keys.size(1) * keys.size(3);
  const char* name = rows.kinds == 1 ? "query_weight" : "qkv_weight";
  require_floating(op, "x", rows.x);
  require(rows.x.dim() >= 1 && rows.x.size(-1) == D, "SHAPE", op, ": x must have shape (..., ", D, "), got ",
          rows.x.sizes());
  require_shape(op, name, rows.weight, {rows.kinds * D, D});
  require_shape(op, "weight", weight, {D, D});
  require_like(op, "weight", weight, name, rows.weight);
}

/// The stream, and what is projected of it, (R, kinds D), for H heads.
inline std::tuple<at::Tensor, at::Tensor> project_rows(const ProjectedRows& rows, int64_t H, bool settled) {
  const auto [sum, projected] =
      decode_normed_linear_op(rows.x, rows.branch, rows.branch_bias, rows.norm_weight, rows.norm_bias, rows.weight,
                              rows.bias, /*gelu=*/false, settled, {});
  const int64_t width = rows.weight.size(0), count = width == 0 ? 0 : projected.numel() / width;
  if (rows.norm_heads && count > 0) {
    constexpr Registered<"memformer::head_norm_in_place",
                         at::Tensor(const at::Tensor&, int64_t, int64_t, int64_t, double)>
        head_norm;
    head_norm(projected, width / (rows.kinds * H), rows.kinds * H, rows.kinds == 1 ? H : 2 * H, 1.0);
  }
  return {sum, projected.view({count, width})};
}

inline std::tuple<at::Tensor, at::Tensor> composed_attention_layer(const ProjectedRows& rows, const at::Tensor& keys,
                                                                   const at::Tensor& values,
                                                                   const std::optional<at::Tensor>& slots,
                                                                   const std::optional<at::Tensor>& lengths,
                                                                   const at::Tensor& weight, bool settled) {
  using Optional = std::optional<at::Tensor>;
  constexpr Registered<"memformer::decode_attention_linear",
                       at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const Optional&,
                                  const Optional&, const Optional&, const at::Tensor&, bool)>
      attention;
  const auto [sum, q] = project_rows(rows, keys.size(1), settled);
  return {sum, attention(q, keys, values, slots, lengths, {}, weight, settled)};
}

inline std::tuple<at::Tensor, at::Tensor> composed_self_attention_layer(
    const ProjectedRows& rows, const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
    const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& keys, const at::Tensor& values,
    const at::Tensor& weight, bool settled) {
  using Optional = std::optional<at::Tensor>;
  constexpr Registered<"memformer::decode_self_attention_linear",
                       at::Tensor(const at::Tensor&, const Optional&, const Optional&, const at::Tensor&,
                                  const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, bool)>
      attention;
  const auto [sum, qkv] = project_rows(rows, keys.size(1), settled);
  return {sum, attention(qkv, cos, sin, slots, positions, keys, values, weight, settled)};
}

}  // namespace memformer::ops
