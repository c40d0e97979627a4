// What rotary_qkv asks of its arguments, on any device.
#pragma once
#include "core/gradient_sink.h"

namespace memformer::ops {

inline void check_rotary_qkv(const at::Tensor& qkv, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& bias_sink,
                             const at::Tensor& cos, const at::Tensor& sin, int64_t heads) {
  constexpr const char* kOp = "rotary_qkv";
  require_floating(kOp, "qkv", qkv);
  require_shape(kOp, "qkv", qkv, {-1, -1, -1});
  require(heads > 0 && qkv.size(2) % (6 * heads) == 0, "CONFIG", "rotary_qkv: qkv's width must be 3 x heads x an even number, got ",
          qkv.size(2), " with ", heads, " heads");
  require(given(bias) || !given(bias_sink), "CONFIG", "rotary_qkv: a bias_sink needs a bias");
  if (given(bias)) {
    require_shape(kOp, "bias", *bias, {qkv.size(2)});
    require_like(kOp, "bias", *bias, "qkv", qkv);
    require_sink(kOp, "bias_sink", bias_sink, qkv.size(2), qkv);
  }
  const int64_t T = qkv.size(1), half = qkv.size(2) / (6 * heads);
  const auto angles = [&](const char* name, const at::Tensor& table) {
    require_shape(kOp, name, table, {T, half});
    require_dtype(kOp, name, table, accumulate_type(qkv.scalar_type()));
    require(table.device() == qkv.device(), "DEVICE_MISMATCH", kOp, ": ", name, " must be on qkv's device ", qkv.device().str(), ", got ",
            table.device().str());
  };
  angles("cos", cos);
  angles("sin", sin);
}

}  // namespace memformer::ops
