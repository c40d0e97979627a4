#include "ops/gelu_dropout/gelu_dropout.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "ops/common/dropout_seed.h"

// h = x + bias.      dL/dx = dropout(dL/dy) (Phi(h) + h phi(h)),  Phi and phi the normal distribution and its density.
//                    dL/dbias = sum over rows of dL/dx
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "gelu_dropout";

void check(const Tensor& x, const Optional& bias, const Optional& bias_sink, double p, const Optional& seed) {
  require_floating(kOp, "x", x);
  require(is_defined(bias) || !is_defined(bias_sink), "CONFIG", "gelu_dropout: a bias_sink needs a bias");
  if (is_defined(bias)) {
    require(x.dim() >= 1, "SHAPE", "gelu_dropout: x must have at least one axis beside a bias, got none");
    require_shape(kOp, "bias", *bias, {x.size(-1)});
    require_like(kOp, "bias", *bias, "x", x);
    require_sink(kOp, "bias_sink", bias_sink, x.size(-1), x);
  }
  require(p >= 0.0 && p < 1.0, "CONFIG", "gelu_dropout: p must be at least 0 and below 1, got ", p);
  if (p == 0.0) return;
  require(is_defined(seed), "CONFIG", "gelu_dropout: dropout needs a seed");
  require_dropout_seed(kOp, *seed, x);
}

Tensor dropped(const Tensor& x, double p, const Optional& seed, int64_t site) {
  static const auto dropout = find_op<Tensor(const Tensor&, double, const Tensor&, int64_t)>("memformer::dropout");
  return p == 0.0 ? x : dropout.call(x, p, *seed, site);
}

Tensor biased(const Tensor& x, const Optional& bias) {
  const auto wide = accumulate_type(x.scalar_type());
  return is_defined(bias) ? at::add(x.to(wide), bias->to(wide)) : x.to(wide);
}

Tensor forward_cpu(const Tensor& x, const Optional& bias, double p, const Optional& seed, int64_t site) {
  auto h = biased(x, bias);
  const auto y = is_defined(bias) ? at::gelu_(h) : at::gelu(h);
  return dropped(y, p, seed, site).to(x.scalar_type());
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& x, const Optional& bias,
                                        const Optional& bias_sink, double p, const Optional& seed, int64_t site) {
  const auto h = biased(x, bias);
  const auto grad_x = at::gelu_backward(dropped(grad.to(h.scalar_type()), p, seed, site), h);
  if (!is_defined(bias)) return {grad_x.to(x.scalar_type()), at::empty({0}, x.options())};
  const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  const auto grad_bias = grad_x.reshape({n, x.size(-1)}).sum(0);
  return {grad_x.to(x.scalar_type()), accumulate_or_return(grad_bias, bias_sink, bias->scalar_type())};
}

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::gelu_dropout_forward");
  return op;
}

const auto& backward_op() {
  static const auto op = find_op<decltype(backward_cpu)>("memformer::gelu_dropout_backward");
  return op;
}

class GeluDropout : public torch::autograd::Function<GeluDropout> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Optional& bias,
                        const Optional& bias_sink, double p, const Optional& seed, int64_t site) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, bias.value_or(Tensor()), seed.value_or(Tensor())});
    context->saved_data["bias_sink"] = bias_sink;  // no saved variable: other backward passes add to it meanwhile
    context->saved_data["p"] = p;
    context->saved_data["site"] = site;
    return forward_op().call(x, bias, p, seed, site);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto optional = [](const Tensor& tensor) { return tensor.defined() ? Optional(tensor) : std::nullopt; };
    const auto bias_sink = context->saved_data["bias_sink"].toOptional<Tensor>();
    auto [x, bias] =
        backward_op().call(grads[0], saved[0], optional(saved[1]), bias_sink, context->saved_data["p"].toDouble(),
                           optional(saved[2]), context->saved_data["site"].toInt());
    if (!saved[1].defined() || is_defined(bias_sink)) bias.reset();
    return {x, bias, {}, {}, {}, {}};
  }
};

Tensor with_gradient(const Tensor& x, const Optional& bias, const Optional& bias_sink, double p, const Optional& seed,
                     int64_t site) {
  check(x, bias, bias_sink, p, seed);
  return GeluDropout::apply(x, bias, bias_sink, p, seed, site);
}

Tensor without_gradient(const Tensor& x, const Optional& bias, const Optional& bias_sink, double p,
                        const Optional& seed, int64_t site) {
  check(x, bias, bias_sink, p, seed);
  return forward_op().call(x, bias, p, seed, site);
}

}  // namespace

Tensor gelu_dropout(const Tensor& x, const Trained& bias, double p, const Optional& seed, int64_t site) {
  static const auto op = find_op<decltype(without_gradient)>("memformer::gelu_dropout");
  return op.call(x, bias.optional(), bias.sink, p, seed, site);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("gelu_dropout(Tensor x, Tensor? bias, Tensor? bias_sink, float p, Tensor? seed, int site) -> Tensor");
  library.def("gelu_dropout_forward(Tensor x, Tensor? bias, float p, Tensor? seed, int site) -> Tensor");
  library.def(
      "gelu_dropout_backward(Tensor grad, Tensor x, Tensor? bias, Tensor(a!)? bias_sink, float p, Tensor? seed, int "
      "site)"
      " -> (Tensor grad_x, Tensor grad_bias)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("gelu_dropout_forward", &forward_cpu);
  library.impl("gelu_dropout_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("gelu_dropout", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("gelu_dropout", &with_gradient); }

}  // namespace memformer::ops
