#include "ops/linear/linear.h"

#include "core/matrix_product.h"
#include "core/op_handle.h"
#include "core/tensor_checks.h"

// Saved for backward: x and W.      dL/dx = g W      dL/dW = g^T x      dL/db = sum of g over the rows
namespace memformer::ops {
namespace {

using at::Tensor;
using Bias = std::optional<Tensor>;
constexpr const char* kOp = "linear";

void check(const Tensor& x, const Tensor& weight, const Bias& bias) {
  require_floating(kOp, "x", x);
  require(x.dim() >= 1, "SHAPE", "linear: x must have at least one axis, got none");
  require_shape(kOp, "weight", weight, {-1, x.size(-1)});
  require_like(kOp, "weight", weight, "x", x);
  if (!bias.has_value() || !bias->defined()) return;
  require_shape(kOp, "bias", *bias, {weight.size(0)});
  require_like(kOp, "bias", *bias, "x", x);
}

Tensor forward_cpu(const Tensor& x, const Tensor& weight, const Bias& bias) {
  check(x, weight, bias);
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  return affine(x.reshape({n, x.size(-1)}), weight, bias).view(shape);
}

class Linear : public torch::autograd::Function<Linear> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, const Bias& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value() && bias->defined();
    return ops::linear(x, weight, bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1];
    const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
    const auto grad = grads[0].reshape({n, weight.size(0)});  // (n, out)
    const auto rows = x.reshape({n, weight.size(1)});         // (n, in)
    return {context->needs_input_grad(0) ? matrix_product(grad, weight).view_as(x) : Tensor(),
            context->needs_input_grad(1) ? matrix_product(grad.t(), rows) : Tensor(),
            context->saved_data["bias"].toBool() ? grad.sum(0) : Tensor()};
  }
};

Tensor with_gradient(const Tensor& x, const Tensor& weight, const Bias& bias) {
  check(x, weight, bias);
  return Linear::apply(x, weight, bias);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Bias& bias) {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, const Bias&)>("memformer::linear");
  return op.call(x, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) { library.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"); }
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("linear", &forward_cpu); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("linear", &with_gradient); }

}  // namespace memformer::ops
