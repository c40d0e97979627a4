// Gradient sinks: tensors, in the dtype of sums, to which a backward pass adds a parameter's gradient instead of
// returning it.
#pragma once
#include "core/tensor_checks.h"

namespace memformer {

inline bool is_defined(const std::optional<at::Tensor>& tensor) { return tensor.has_value() && tensor->defined(); }

/// A sink for a list of `width` numbers, in the dtype that sums over `like` are carried in.
inline void require_sink(const char* op, const char* name, const std::optional<at::Tensor>& sink, int64_t width,
                         const at::Tensor& like) {
  if (!is_defined(sink)) return;
  require_shape(op, name, *sink, {width});
  require_dtype(op, name, *sink, accumulate_type(like.scalar_type()));
  require(sink->is_contiguous(), "SHAPE", op, ": ", name, " must be contiguous");
}

/// For every weight and every bias of an operator's lists a sink in its shape, or none at all.
inline void require_sinks(const char* op, at::TensorList weights, at::TensorList biases, at::TensorList weight_sinks,
                          at::TensorList bias_sinks) {
  if (weight_sinks.empty() && bias_sinks.empty()) return;
  require(weight_sinks.size() == weights.size() && bias_sinks.size() == biases.size(), "CONFIG", op,
          ": sinks must be one a weight and one a bias, or none; got ", weight_sinks.size(), " and ",
          bias_sinks.size());
  const auto require_each = [op](const char* name, at::TensorList sinks, const char* of_name, at::TensorList of) {
    for (size_t l = 0; l < sinks.size(); ++l) {
      require(sinks[l].sizes() == of[l].sizes(), "SHAPE", op, ": ", name, " must have the shape of ", of_name, " ",
              of[l].sizes(), ", got ", sinks[l].sizes());
      require_dtype(op, name, sinks[l], accumulate_type(of[l].scalar_type()));
      require(sinks[l].is_contiguous(), "SHAPE", op, ": ", name, " must be contiguous");
    }
  };
  require_each("weight_sinks", weight_sinks, "weights", weights);
  require_each("bias_sinks", bias_sinks, "biases", biases);
}

/// Adds the gradient to the sink and returns nothing, (0), or without a sink returns it in the parameter's dtype.
inline at::Tensor accumulate_or_return(const at::Tensor& grad, const std::optional<at::Tensor>& sink,
                                       at::ScalarType dtype) {
  if (!is_defined(sink)) return grad.to(dtype);
  sink->add_(grad);
  return at::empty({0}, grad.options().dtype(dtype));
}

/// Where the gradient of an operator's parameter goes: into its sink, else to autograd; nowhere without the parameter.
/// It is kept for the backward pass as it is: were the sink a saved variable, no other backward pass could add to it.
struct Destination {
  Destination() = default;
  Destination(const std::optional<at::Tensor>& parameter, const std::optional<at::Tensor>& sink)
      : given(is_defined(parameter)), sink(sink) {}

  bool to_autograd() const { return given && !is_defined(sink); }
  /// What autograd gets of what a kernel returned, which is (0) where the gradient goes elsewhere.
  at::Tensor operator()(at::Tensor&& gradient) const { return to_autograd() ? std::move(gradient) : at::Tensor(); }

  bool given = false;
  std::optional<at::Tensor> sink = {};
};

}  // namespace memformer
