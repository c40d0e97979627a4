#include "ops/linear/linear.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
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

constexpr Registered<"memformer::linear", decltype(forward_cpu)> dispatched;

struct Linear {
  struct Saved {
    Tensor x, weight;
    Destination of_weight, of_bias;
    auto variables() { return std::tie(x, weight); }
  };

  static Tensor forward(Saved* saved, const Tensor& x, const Tensor& weight, const Optional& bias,
                        const Optional& weight_sink, const Optional& bias_sink) {
    check(x, weight, bias);
    check_sinks(weight, weight_sink, bias_sink);
    if (saved != nullptr) *saved = {x, weight, {weight, weight_sink}, {bias, bias_sink}};
    return dispatched(x, weight, bias, weight_sink, bias_sink);
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    const int64_t n = c10::multiply_integers(s.x.sizes().slice(0, s.x.dim() - 1));
    const auto grad = pass.gradients[0].reshape({n, s.weight.size(0)});  // (n, out)
    const auto rows = s.x.reshape({n, s.weight.size(1)});                // (n, in)
    Tensor grad_weight;
    if (is_defined(s.of_weight.sink))
      linear_accumulate(grad, rows, *s.of_weight.sink, s.of_bias.sink);
    else if (pass.needs(1))
      grad_weight = matrix_product(grad.t(), rows);
    return {pass.needs(0) ? matrix_product(grad, s.weight).view_as(s.x) : Tensor(), grad_weight,
            s.of_bias.to_autograd() ? grad.sum(0) : Tensor()};
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Trained& weight, const Trained& bias) {
  return dispatched(x, weight.value, bias.optional(), weight.sink, bias.sink);
}

void linear_accumulate(const Tensor& grad, const Tensor& x, const Tensor& weight_sink, const Optional& bias_sink) {
  constexpr Registered<"memformer::linear_accumulate", decltype(linear_accumulate)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  op(grad, x, weight_sink, bias_sink);
}

void synchronize_side_stream(const Tensor& like) {
  constexpr Registered<"memformer::synchronize_side_stream", decltype(synchronize_side_stream)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  op(like);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? weight_sink, Tensor? bias_sink) -> Tensor",
              on_cpu(&forward_cpu));
  library.impl("linear", with_gradient<Linear>());
  library.def("linear_accumulate(Tensor grad, Tensor x, Tensor(a!) weight_sink, Tensor(b!)? bias_sink) -> ()",
              on_cpu(&accumulate_cpu));
  library.def("synchronize_side_stream(Tensor like) -> ()", on_cpu(&join_cpu));
}

}  // namespace memformer::ops
