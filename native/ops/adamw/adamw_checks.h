// Checks of the arguments of adamw_step and gradient_norm, on every device.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

inline void check_adamw_step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& exp_avg,
                             const at::Tensor& exp_avg_sq, const std::optional<at::Tensor>& working,
                             const at::Tensor& step, const at::Tensor& norm, const at::Tensor& rate, int64_t decayed) {
  constexpr const char* op = "adamw_step";
  require_flat(op, "parameters", parameters);
  const auto like = [&](const char* argument, const at::Tensor& tensor) {
    require_shape(op, argument, tensor, {parameters.size(0)});
    require(tensor.is_contiguous(), "SHAPE", op, ": ", argument, " must be contiguous");
    require_like(op, argument, tensor, "parameters", parameters);
  };
  like("gradients", gradients);
  like("exp_avg", exp_avg);
  like("exp_avg_sq", exp_avg_sq);
  if (working.has_value() && working->defined()) {
    require_shape(op, "working", *working, {parameters.size(0)});
    require(working->is_contiguous(), "SHAPE", "adamw_step: working must be contiguous");
    require(working->is_floating_point(), "DTYPE", "adamw_step: working must be of a floating dtype, got ",
            c10::toString(working->scalar_type()));
  }
  require_shape(op, "step", step, {});
  require_dtype(op, "step", step, at::kFloat);
  require_shape(op, "norm", norm, {});
  require_shape(op, "rate", rate, {});
  require_dtype(op, "rate", rate, at::kFloat);
  const auto beside = [&](const char* argument, const at::Tensor& tensor) {
    require(tensor.device() == parameters.device(), "DEVICE_MISMATCH", op, ": ", argument,
            " must be on parameters's device ", parameters.device().str(), ", got ", tensor.device().str());
  };
  if (working.has_value() && working->defined()) beside("working", *working);
  beside("step", step);
  beside("norm", norm);
  beside("rate", rate);
  require(decayed >= 0 && decayed <= parameters.size(0), "CONFIG", "adamw_step: decayed must be from 0 to ",
          parameters.size(0), ", got ", decayed);
}

}  // namespace memformer::ops
