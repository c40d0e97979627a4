// What decode_linear and decode_normed_linear ask of their arguments, on a CPU and on a GPU.
#pragma once
#include "core/gradient_sink.h"
#include "core/tensor_checks.h"
#include "ops/decode_linear/decode_shares.h"

namespace memformer::ops {

inline void check_decode_linear(const char* op, const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias) {
  require_floating(op, "x", x);
  require(x.dim() >= 1, "SHAPE", op, ": x must have at least one axis, got none");
  require_shape(op, "weight", weight, {-1, x.size(-1)});
  require_like(op, "weight", weight, "x", x);
  if (!is_defined(bias)) return;
  require_shape(op, "bias", *bias, {weight.size(0)});
  require_like(op, "bias", *bias, "x", x);
}

inline void check_decode_shares(const char* op, const at::Tensor& shares) {
  require_dtype(op, "shares", shares, at::kFloat);
  require(shares.dim() >= 2 && shares.size(-2) == kDecodeShares, "SHAPE", op, ": shares must have shape (..., ",
          kDecodeShares, ", any), got ", shares.sizes());
}

/// Whether a branch of x is in shares: they are an axis more.
inline bool in_shares(const std::optional<at::Tensor>& branch, const at::Tensor& x) {
  return is_defined(branch) && branch->dim() == x.dim() + 1;
}

/// The norm's own arguments are add_norm's, which checks them where it is called.
inline void check_decode_normed_linear(const at::Tensor& x, const std::optional<at::Tensor>& branch,
                                       const std::optional<at::Tensor>& branch_bias, const at::Tensor& norm_weight,
                                       const at::Tensor& norm_bias, const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias) {
  constexpr const char* op = "decode_normed_linear";
  require_floating(op, "x", x);
  require_floating(op, "weight", weight);
  require(x.dim() >= 1, "SHAPE", op, ": x must have at least one axis, got none");
  const int64_t K = x.size(-1);
  require_shape(op, "weight", weight, {-1, K});
  require(weight.device() == x.device(), "DEVICE_MISMATCH", op, ": weight must be on x's device ", x.device().str(),
          ", got ", weight.device().str());
  for (const auto& [name, tensor] : {std::pair{"norm_weight", norm_weight}, std::pair{"norm_bias", norm_bias}}) {
    require_shape(op, name, tensor, {K});
    require_like(op, name, tensor, "x", x);
  }
  if (is_defined(bias)) {
    require_shape(op, "bias", *bias, {weight.size(0)});
    require_like(op, "bias", *bias, "weight", weight);
  }
  if (is_defined(branch)) {
    const auto one = in_shares(branch, x) ? branch->select(-2, 0) : *branch;
    require(one.sizes() == x.sizes(), "SHAPE", op, ": branch must have x's shape ", x.sizes(), ", or with an axis of ",
            kDecodeShares, " shares before the last, got ", branch->sizes());
    if (in_shares(branch, x)) check_decode_shares(op, *branch);
    require(branch->device() == x.device(), "DEVICE_MISMATCH", op, ": branch must be on x's device ", x.device().str(),
            ", got ", branch->device().str());
  }
  if (is_defined(branch_bias)) {
    require(is_defined(branch), "CONFIG", op, ": branch_bias needs a branch");
    require_shape(op, "branch_bias", *branch_bias, {K});
    in_shares(branch, x) ? require_like(op, "branch_bias", *branch_bias, "weight", weight)
                         : require_like(op, "branch_bias", *branch_bias, "branch", *branch);
  }
}

}  // namespace memformer::ops
