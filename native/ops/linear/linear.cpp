#include "ops/linear/linear.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "ops/common/matrix_product.h"

// Saved for backward: x and W.      dL/dx = g W      dL/dW = g^T x      dL/db = sum of g over the rows
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "linear";

void check(const Tensor& x, const Tensor& weight, const Optional& bias) {
  require_floating(kOp, "x", x);
  require(x.dim() >= 1, "SHAPE", "linear: x must have at least one axis, got none");
  require_shape(kOp, "weight", weight, {-1, x.size(-1)});
  require_like(kOp, "weight", weight, "x", x);
  if (!is_defined(bias)) return;
  require_shape(kOp, "bias", *bias, {weight.size(0)});
  require_like(kOp, "bias", *bias, "x", x);
}

void check_sinks(const Tensor& weight, const Optional& weight_sink, const Optional& bias_sink) {
  require(is_defined(weight_sink) || !is_defined(bias_sink), "CONFIG", "linear: a bias_sink needs a weight_sink");
  if (!is_defined(weight_sink)) return;
  const auto dtype = accumulate_type(weight.scalar_type());
  require_shape(kOp, "weight_sink", *weight_sink, {weight.size(0), weight.size(1)});
  require_dtype(kOp, "weight_sink", *weight_sink, dtype);
  if (!is_defined(bias_sink)) return;
  require_shape(kOp, "bias_sink", *bias_sink, {weight.size(0)});
  require_dtype(kOp, "bias_sink", *bias_sink, dtype);
}

Tensor forward_cpu(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional&, const Optional&) {
  check(x, weight, bias);
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  return affine(x.reshape({n, x.size(-1)}), weight, bias).view(shape);
}

void accumulate_cpu(const Tensor& grad_in, const Tensor& x_in, const Tensor& weight_sink, const Optional& bias_sink) {
  const auto grad = grad_in.to(weight_sink.scalar_type()), x = x_in.to(weight_sink.scalar_type());
  weight_sink.add_(matrix_product(grad.t(), x));
  if (is_defined(bias_sink)) bias_sink->add_(grad.sum(0));
}

void join_cpu(const Tensor&) {}

Tensor dispatched(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& weight_sink,
                  const Optional& bias_sink) {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::linear");
  return op.call(x, weight, bias, weight_sink, bias_sink);
}

class Linear : public torch::autograd::Function<Linear> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Optional& bias, const Optional& weight_sink, const Optional& bias_sink) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = is_defined(bias);
    context->saved_data["weight_sink"] =
        weight_sink;  // no saved variables: other backward passes add to them meanwhile
    context->saved_data["bias_sink"] = bias_sink;
    return dispatched(x, weight, bias, weight_sink, bias_sink);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1];
    const auto weight_sink = context->saved_data["weight_sink"].toOptional<Tensor>();
    const auto bias_sink = context->saved_data["bias_sink"].toOptional<Tensor>();
    const bool biased = context->saved_data["bias"].toBool();
    const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
    const auto grad = grads[0].reshape({n, weight.size(0)});  // (n, out)
    const auto rows = x.reshape({n, weight.size(1)});         // (n, in)
    Tensor grad_weight;
    if (is_defined(weight_sink))
      linear_accumulate(grad, rows, *weight_sink, bias_sink);
    else if (context->needs_input_grad(1))
      grad_weight = matrix_product(grad.t(), rows);
    return {context->needs_input_grad(0) ? matrix_product(grad, weight).view_as(x) : Tensor(),
            grad_weight,
            biased && !is_defined(bias_sink) ? grad.sum(0) : Tensor(),
            {},
            {}};
  }
};

Tensor with_gradient(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& weight_sink,
                     const Optional& bias_sink) {
  check(x, weight, bias);
  check_sinks(weight, weight_sink, bias_sink);
  return Linear::apply(x, weight, bias, weight_sink, bias_sink);
}

}  // namespace

Tensor linear(const Tensor& x, const Trained& weight, const Trained& bias) {
  return dispatched(x, weight.value, bias.optional(), weight.sink, bias.sink);
}

void linear_accumulate(const Tensor& grad, const Tensor& x, const Tensor& weight_sink, const Optional& bias_sink) {
  static const auto op = find_op<decltype(linear_accumulate)>("memformer::linear_accumulate");
  at::AutoDispatchBelowADInplaceOrView below;
  op.call(grad, x, weight_sink, bias_sink);
}

void synchronize_side_stream(const Tensor& like) {
  static const auto op = find_op<decltype(synchronize_side_stream)>("memformer::synchronize_side_stream");
  at::AutoDispatchBelowADInplaceOrView below;
  op.call(like);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? weight_sink, Tensor? bias_sink) -> Tensor");
  library.def("linear_accumulate(Tensor grad, Tensor x, Tensor(a!) weight_sink, Tensor(b!)? bias_sink) -> ()");
  library.def("synchronize_side_stream(Tensor like) -> ()");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("linear", &forward_cpu);
  library.impl("linear_accumulate", &accumulate_cpu);
  library.impl("synchronize_side_stream", &join_cpu);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("linear", &with_gradient); }

}  // namespace memformer::ops
