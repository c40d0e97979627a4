#include "ops/feed_forward/feed_forward.h"

#include "core/cuda.h"
#include "core/gradient_sink.h"
#include "core/operator.h"
#include "ops/common/matrix_product.h"
#include "ops/feed_forward/feed_forward_fits.h"

// pre = x up^T, h = pre + up_bias, a = gelu(h).      dL/dpre = (g down) gelu'(h)      dL/dup_bias = sum of that over
// the rows dL/dx = dL/dpre up      dL/dup = dL/dpre^T x       dL/ddown = g^T a                 dL/ddown_bias = sum of g
// over the rows
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "feed_forward";

int64_t rows_of(const Tensor& x) { return c10::multiply_integers(x.sizes().slice(0, x.dim() - 1)); }

/// (..., C) -> (rows, C)
Tensor as_rows(const Tensor& x) { return x.reshape({rows_of(x), x.size(-1)}); }

void check_weight_sink(const char* name, const Optional& sink, const Tensor& weight) {
  if (!is_defined(sink)) return;
  require_shape(kOp, name, *sink, {weight.size(0), weight.size(1)});
  require_dtype(kOp, name, *sink, accumulate_type(weight.scalar_type()));
  require(sink->is_contiguous(), "SHAPE", kOp, ": ", name, " must be contiguous");
}

/// All but dropout, which gelu_dropout checks.
void check(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Tensor& down, const Optional& down_bias,
           const Optional& up_sink, const Optional& up_bias_sink, const Optional& down_sink,
           const Optional& down_bias_sink) {
  require_floating(kOp, "x", x);
  require(x.dim() >= 1, "SHAPE", "feed_forward: x must have at least one axis, got none");
  require_shape(kOp, "up", up, {-1, x.size(-1)});
  require_like(kOp, "up", up, "x", x);
  require_shape(kOp, "up_bias", up_bias, {up.size(0)});
  require_like(kOp, "up_bias", up_bias, "x", x);
  require_shape(kOp, "down", down, {-1, up.size(0)});
  require_like(kOp, "down", down, "x", x);
  if (is_defined(down_bias)) {
    require_shape(kOp, "down_bias", *down_bias, {down.size(0)});
    require_like(kOp, "down_bias", *down_bias, "x", x);
  }
  require(is_defined(down_bias) || !is_defined(down_bias_sink), "CONFIG",
          "feed_forward: a down_bias_sink needs a down_bias");
  require(is_defined(down_sink) || !is_defined(down_bias_sink), "CONFIG",
          "feed_forward: a down_bias_sink needs a down_sink");
  check_weight_sink("up_sink", up_sink, up);
  require_sink(kOp, "up_bias_sink", up_bias_sink, up.size(0), x);
  check_weight_sink("down_sink", down_sink, down);
  require_sink(kOp, "down_bias_sink", down_bias_sink, down.size(0), x);
}

using LinearSignature = Tensor(const Tensor&, const Tensor&, const Optional&, const Optional&, const Optional&);
using Gelu = Tensor(const Tensor&, const Optional&, const Optional&, double, const Optional&, int64_t);
using Accumulate = void(const Tensor&, const Tensor&, const Tensor&, const Optional&);
constexpr Registered<"memformer::linear", LinearSignature> linear;
constexpr Registered<"memformer::gelu_dropout", Gelu> gelu_dropout;
constexpr Registered<"memformer::linear_accumulate", Accumulate> accumulate;

using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, bool);
using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                            const Optional&);
/// pre (rows, F), empty where it is not kept, and a (rows, F).
constexpr Registered<"memformer::feed_forward_fused", Forward> activate;
/// dL/dpre, and dL/dup_bias unless that went into its sink.
constexpr Registered<"memformer::feed_forward_fused_backward", Backward> activate_backward;

Tensor project(const Tensor& a, const Tensor& down, const Optional& down_bias, const Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() = down.size(0);
  return linear(a, down, down_bias, {}, {}).view(shape);
}

Tensor weight_gradient(const Tensor& grad, const Tensor& rows, const Optional& sink, const Optional& bias_sink,
                       bool needed) {
  if (is_defined(sink))
    accumulate(grad, rows, *sink, bias_sink);
  else if (needed)
    return matrix_product(grad.t(), rows);
  return Tensor();
}

struct FusedFeedForward {
  struct Saved {
    Tensor x, up, up_bias, down, pre, a;
    Destination of_up, of_up_bias, of_down, of_down_bias;
    auto variables() { return std::tie(x, up, up_bias, down, pre, a); }
  };

  static Tensor forward(Saved* saved, const Tensor& x, const Tensor& up, const Tensor& up_bias, const Tensor& down,
                        const Optional& down_bias, const Optional& up_sink, const Optional& up_bias_sink,
                        const Optional& down_sink, const Optional& down_bias_sink) {
    const auto [pre, a] = activate(as_rows(x), up, up_bias, saved != nullptr);
    if (saved != nullptr)
      *saved = {.x = x,
                .up = up,
                .up_bias = up_bias,
                .down = down,
                .pre = pre,
                .a = a,
                .of_up = {up, up_sink},
                .of_up_bias = {up_bias, up_bias_sink},
                .of_down = {down, down_sink},
                .of_down_bias = {down_bias, down_bias_sink}};
    return project(a, down, down_bias, x);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    const auto grad = as_rows(pass.gradients[0]), rows = as_rows(s.x);
    const auto grad_down = weight_gradient(grad, s.a, s.of_down.sink, s.of_down_bias.sink, pass.needs(3));
    auto [grad_pre, grad_up_bias] = activate_backward(grad, s.down, s.pre, s.up_bias, s.of_up_bias.sink);
    const auto grad_up = weight_gradient(grad_pre, rows, s.of_up.sink, {}, pass.needs(1));
    const auto grad_x = pass.needs(0) ? matrix_product(grad_pre, s.up).view_as(s.x) : Tensor();
    return {grad_x, grad_up, s.of_up_bias(std::move(grad_up_bias)), grad_down,
            s.of_down_bias.to_autograd() ? grad.sum(0) : Tensor()};
  }
};

/// Its own function, so that x up^T is let go before the second product where nobody keeps it.
Tensor composed_activation(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Optional& up_sink,
                           const Optional& up_bias_sink, double p, const Optional& seed, int64_t site) {
  return gelu_dropout(linear(x, up, {}, up_sink, {}), up_bias, up_bias_sink, p, seed, site);
}

/// By one operator where its kernels fit, else by three.
Tensor feed(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Tensor& down, const Optional& down_bias,
            const Optional& up_sink, const Optional& up_bias_sink, const Optional& down_sink,
            const Optional& down_bias_sink, double p, const Optional& seed, int64_t site) {
  check(x, up, up_bias, down, down_bias, up_sink, up_bias_sink, down_sink, down_bias_sink);
  if (feed_forward_is_fused(x, down, p))
    return Operator<FusedFeedForward>::call(x, up, up_bias, down, down_bias, up_sink, up_bias_sink, down_sink,
                                            down_bias_sink);
  const auto a = composed_activation(x, up, up_bias, up_sink, up_bias_sink, p, seed, site);
  return linear(a, down, down_bias, down_sink, down_bias_sink);
}

}  // namespace

bool feed_forward_is_fused(const Tensor& x, const Tensor& down, double p) {
  const auto dtype = x.scalar_type();
  if (p != 0.0 || !x.is_cuda() || (dtype != at::kBFloat16 && dtype != at::kHalf) || down.size(0) != x.size(-1))
    return false;
  return feed_forward_fits(rows_of(x), x.size(-1), down.size(1)) &&
         cuda()->compute_capability(x.device().index()) == 90;
}

Tensor feed_forward(const Tensor& x, const Trained& up, const Trained& up_bias, const Trained& down,
                    const Trained& down_bias, double p, const Optional& seed, int64_t site) {
  constexpr Registered<"memformer::feed_forward", decltype(feed)> op;
  return op(x, up.value, up_bias.value, down.value, down_bias.optional(), up.sink, up_bias.sink, down.sink,
            down_bias.sink, p, seed, site);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<&feed>(library,
                "feed_forward(Tensor x, Tensor up, Tensor up_bias, Tensor down, Tensor? down_bias, Tensor? up_sink, "
                "Tensor? up_bias_sink, Tensor? down_sink, Tensor? down_bias_sink, float p, Tensor? seed, int site) -> "
                "Tensor");
  library.def("feed_forward_fused(Tensor x, Tensor up, Tensor up_bias, bool kept) -> (Tensor pre, Tensor activation)");
  library.def(
      "feed_forward_fused_backward(Tensor grad, Tensor down, Tensor pre, Tensor up_bias, Tensor(a!)? up_bias_sink) -> "
      "(Tensor grad_pre, Tensor grad_up_bias)");
}

}  // namespace memformer::ops
