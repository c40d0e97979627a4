// Gradient sinks: tensors in the dtype of sums, to which a backward pass adds the gradient of a parameter instead of sending it back.
#pragma once
#include "core/tensor_checks.h"

namespace memformer {

inline bool given(const std::optional<at::Tensor>& tensor) { return tensor.has_value() && tensor->defined(); }

/// A sink for a list of `width` numbers, in the dtype that sums over `like` are carried in.
inline void require_sink(const char* op, const char* name, const std::optional<at::Tensor>& sink, int64_t width, const at::Tensor& like) {
  if (!given(sink)) return;
  require_shape(op, name, *sink, {width});
  require_dtype(op, name, *sink, accumulate_type(like.scalar_type()));
  require(sink->is_contiguous(), "SHAPE", op, ": ", name, " must be contiguous");
}

/// Adds the gradient to the sink and returns nothing, (0), or without a sink returns it in the parameter's dtype.
inline at::Tensor deliver(const at::Tensor& grad, const std::optional<at::Tensor>& sink, at::ScalarType dtype) {
  if (!given(sink)) return grad.to(dtype);
  sink->add_(grad);
  return at::empty({0}, grad.options().dtype(dtype));
}

}  // namespace memformer
