#include "ops/gelu_dropout/gelu_dropout.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
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
  constexpr Registered<"memformer::dropout", Tensor(const Tensor&, double, const Tensor&, int64_t)> dropout;
  return p == 0.0 ? x : dropout(x, p, *seed, site);
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

constexpr Registered<"memformer::gelu_dropout_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::gelu_dropout_backward", decltype(backward_cpu)> backward_kernel;

struct GeluDropout {
  struct Saved {
    Tensor x;
    Optional bias, seed;
    double p;
    int64_t site;
    Destination of_bias;
    auto variables() { return std::tie(x, bias, seed); }
  };

  static Tensor forward(Saved* saved, const Tensor& x, const Optional& bias, const Optional& bias_sink, double p,
                        const Optional& seed, int64_t site) {
    check(x, bias, bias_sink, p, seed);
    if (saved != nullptr) *saved = {x, bias, seed, p, site, {bias, bias_sink}};
    return forward_kernel(x, bias, p, seed, site);
  }

  static std::tuple<Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    auto [x, bias] = backward_kernel(pass.gradients[0], s.x, s.bias, s.of_bias.sink, s.p, s.seed, s.site);
    return {x, s.of_bias(std::move(bias))};
  }
};

}  // namespace

Tensor gelu_dropout(const Tensor& x, const Trained& bias, double p, const Optional& seed, int64_t site) {
  constexpr Registered<"memformer::gelu_dropout", Signature<GeluDropout>> op;
  return op(x, bias.optional(), bias.sink, p, seed, site);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<GeluDropout>(
      library, "gelu_dropout(Tensor x, Tensor? bias, Tensor? bias_sink, float p, Tensor? seed, int site) -> Tensor");
  library.def("gelu_dropout_forward(Tensor x, Tensor? bias, float p, Tensor? seed, int site) -> Tensor",
              on_cpu(&forward_cpu));
  library.def(
      "gelu_dropout_backward(Tensor grad, Tensor x, Tensor? bias, Tensor(a!)? bias_sink, float p, Tensor? seed, int "
      "site) -> (Tensor grad_x, Tensor grad_bias)",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
