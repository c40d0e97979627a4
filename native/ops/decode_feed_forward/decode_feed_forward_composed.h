// The layer as its parts one after the other, on a CPU and on a GPU, and what it asks of its own arguments. Parts are
// called by name: their functions may be in the other shared object.
#pragma once
#include "core/op_handle.h"
#include "core/tensor_checks.h"
#include "ops/decode_linear/decode_linear_ops.h"

namespace memformer::ops {

/// Everything else is checked by the parts.
inline void check_decode_feed_forward(const at::Tensor& x, const at::Tensor& up_weight, const at::Tensor& down_weight) {
  constexpr const char* op = "decode_feed_forward";
  require_floating(op, "x", x);
  require(x.dim() >= 1, "SHAPE", op, ": x must have at least one axis, got none");
  require_shape(op, "up_weight", up_weight, {-1, x.size(-1)});
  require_shape(op, "down_weight", down_weight, {x.size(-1), up_weight.size(0)});
  require_like(op, "down_weight", down_weight, "up_weight", up_weight);
}

inline std::tuple<at::Tensor, at::Tensor> composed_feed_forward(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const std::optional<at::Tensor>& branch_bias,
    const at::Tensor& norm_weight, const at::Tensor& norm_bias, const at::Tensor& up_weight,
    const std::optional<at::Tensor>& up_bias, const at::Tensor& down_weight, bool settled) {
  const auto [sum, hidden] = decode_normed_linear_op(x, branch, branch_bias, norm_weight, norm_bias, up_weight, up_bias,
                                                     /*gelu=*/true, settled, {});
  return {sum, decode_linear_op(hidden, down_weight, {}, /*gelu=*/false, settled, {})};
}

}  // namespace memformer::ops
