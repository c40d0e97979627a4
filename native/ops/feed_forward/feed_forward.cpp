#include "ops/feed_forward/feed_forward.h"

#include "core/cuda.h"
#include "core/gradient_sink.h"
#include "core/op_handle.h"
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

Tensor linear(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& weight_sink,
              const Optional& bias_sink) {
  static const auto op = find_op<decltype(linear)>("memformer::linear");
  return op.call(x, weight, bias, weight_sink, bias_sink);
}

Tensor gelu_dropout(const Tensor& x, const Optional& bias, const Optional& bias_sink, double p, const Optional& seed,
                    int64_t site) {
  static const auto op = find_op<decltype(gelu_dropout)>("memformer::gelu_dropout");
  return op.call(x, bias, bias_sink, p, seed, site);
}

void accumulate(const Tensor& grad, const Tensor& x, const Tensor& weight_sink, const Optional& bias_sink) {
  static const auto op = find_op<decltype(accumulate)>("memformer::linear_accumulate");
  op.call(grad, x, weight_sink, bias_sink);
}

using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, bool);
using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                            const Optional&);

/// pre (rows, F), empty where it is not kept, and a (rows, F).
std::tuple<Tensor, Tensor> activate(const Tensor& rows, const Tensor& up, const Tensor& up_bias, bool kept) {
  static const auto op = find_op<Forward>("memformer::feed_forward_fused");
  return op.call(rows, up, up_bias, kept);
}

/// dL/dpre, and dL/dup_bias unless that went into its sink.
std::tuple<Tensor, Tensor> activate_backward(const Tensor& grad, const Tensor& down, const Tensor& pre,
                                             const Tensor& up_bias, const Optional& sink) {
  static const auto op = find_op<Backward>("memformer::feed_forward_fused_backward");
  return op.call(grad, down, pre, up_bias, sink);
}

Tensor project(const Tensor& a, const Tensor& down, const Optional& down_bias, const Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() = down.size(0);
  return linear(a, down, down_bias, {}, {}).view(shape);
}

class FeedForward : public torch::autograd::Function<FeedForward> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& up,
                        const Tensor& up_bias, const Tensor& down, const Optional& down_bias, const Optional& up_sink,
                        const Optional& up_bias_sink, const Optional& down_sink, const Optional& down_bias_sink) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [pre, a] = activate(as_rows(x), up, up_bias, true);
    context->save_for_backward({x, up, up_bias, down, pre, a});
    context->saved_data["down_bias"] = is_defined(down_bias);
    context->saved_data["up_sink"] = up_sink;  // no saved variables: other backward passes add to them meanwhile
    context->saved_data["up_bias_sink"] = up_bias_sink;
    context->saved_data["down_sink"] = down_sink;
    context->saved_data["down_bias_sink"] = down_bias_sink;
    return project(a, down, down_bias, x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &up = saved[1], &up_bias = saved[2], &down = saved[3], &pre = saved[4], &a = saved[5];
    const auto sink = [&](const char* name) { return context->saved_data[name].toOptional<Tensor>(); };
    const auto grad = as_rows(grads[0]), rows = as_rows(x);
    const auto grad_down =
        weight_gradient(grad, a, sink("down_sink"), sink("down_bias_sink"), context->needs_input_grad(3));
    const bool sends_down_bias = context->saved_data["down_bias"].toBool() && !is_defined(sink("down_bias_sink"));
    auto [grad_pre, grad_up_bias] = activate_backward(grad, down, pre, up_bias, sink("up_bias_sink"));
    if (is_defined(sink("up_bias_sink"))) grad_up_bias.reset();
    const auto grad_up = weight_gradient(grad_pre, rows, sink("up_sink"), {}, context->needs_input_grad(1));
    const auto grad_x = context->needs_input_grad(0) ? matrix_product(grad_pre, up).view_as(x) : Tensor();
    return {grad_x, grad_up, grad_up_bias, grad_down, sends_down_bias ? grad.sum(0) : Tensor(), {}, {}, {}, {}};
  }

 private:
  static Tensor weight_gradient(const Tensor& grad, const Tensor& rows, const Optional& sink, const Optional& bias_sink,
                                bool needed) {
    if (is_defined(sink))
      accumulate(grad, rows, *sink, bias_sink);
    else if (needed)
      return matrix_product(grad.t(), rows);
    return Tensor();
  }
};

/// Its own function, so that x up^T is let go before the second product where nobody keeps it.
Tensor composed_activation(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Optional& up_sink,
                           const Optional& up_bias_sink, double p, const Optional& seed, int64_t site) {
  return gelu_dropout(linear(x, up, {}, up_sink, {}), up_bias, up_bias_sink, p, seed, site);
}

Tensor with_gradient(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Tensor& down,
                     const Optional& down_bias, const Optional& up_sink, const Optional& up_bias_sink,
                     const Optional& down_sink, const Optional& down_bias_sink, double p, const Optional& seed,
                     int64_t site) {
  check(x, up, up_bias, down, down_bias, up_sink, up_bias_sink, down_sink, down_bias_sink);
  if (!feed_forward_is_fused(x, down, p)) {
    const auto a = composed_activation(x, up, up_bias, up_sink, up_bias_sink, p, seed, site);
    return linear(a, down, down_bias, down_sink, down_bias_sink);
  }
  const auto wanted = [](const Tensor& tensor) { return tensor.requires_grad(); };
  if (at::GradMode::is_enabled() &&
      (wanted(x) || wanted(up) || wanted(up_bias) || wanted(down) || (is_defined(down_bias) && wanted(*down_bias))))
    return FeedForward::apply(x, up, up_bias, down, down_bias, up_sink, up_bias_sink, down_sink, down_bias_sink);
  at::AutoDispatchBelowADInplaceOrView below;
  return project(std::get<1>(activate(as_rows(x), up, up_bias, false)), down, down_bias, x);
}

/// with_gradient's way where there is none to come: the same checks and the same numbers.
Tensor without_gradient(const Tensor& x, const Tensor& up, const Tensor& up_bias, const Tensor& down,
                        const Optional& down_bias, const Optional& up_sink, const Optional& up_bias_sink,
                        const Optional& down_sink, const Optional& down_bias_sink, double p, const Optional& seed,
                        int64_t site) {
  const at::AutoGradMode off(false);
  return with_gradient(x, up, up_bias, down, down_bias, up_sink, up_bias_sink, down_sink, down_bias_sink, p, seed,
                       site);
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
  static const auto op = find_op<decltype(with_gradient)>("memformer::feed_forward");
  return op.call(x, up.value, up_bias.value, down.value, down_bias.optional(), up.sink, up_bias.sink, down.sink,
                 down_bias.sink, p, seed, site);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "feed_forward(Tensor x, Tensor up, Tensor up_bias, Tensor down, Tensor? down_bias, Tensor? up_sink, Tensor? "
      "up_bias_sink,"
      " Tensor? down_sink, Tensor? down_bias_sink, float p, Tensor? seed, int site) -> Tensor");
  library.def("feed_forward_fused(Tensor x, Tensor up, Tensor up_bias, bool kept) -> (Tensor pre, Tensor activation)");
  library.def(
      "feed_forward_fused_backward(Tensor grad, Tensor down, Tensor pre, Tensor up_bias, Tensor(a!)? up_bias_sink)"
      " -> (Tensor grad_pre, Tensor grad_up_bias)");
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("feed_forward", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("feed_forward", &with_gradient); }

}  // namespace memformer::ops
