#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "core/gradient_sink.h"
#include "core/matrix_product.h"
#include "core/op_handle.h"

// Saved for backward on a CPU: grad_hidden (N, D), grad_weight (G, V, D) and, with a bias, grad_bias (G, V) of the groups' summed losses;
// backward multiplies them by dL/dloss (G).
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "linear_cross_entropy";

void check(const Tensor& hidden, const Tensor& weight, const Optional& bias, const Tensor& target, const Optional& sink,
           const Optional& bias_sink, int64_t groups, int64_t chunk) {
  require_floating(kOp, "hidden", hidden);
  require_shape(kOp, "hidden", hidden, {-1, -1});
  require_shape(kOp, "weight", weight, {-1, hidden.size(1)});
  require_like(kOp, "weight", weight, "hidden", hidden);
  if (given(bias)) {
    require_shape(kOp, "bias", *bias, {weight.size(0)});
    require_like(kOp, "bias", *bias, "hidden", hidden);
  }
  require_shape(kOp, "target", target, {hidden.size(0)});
  require_dtype(kOp, "target", target, at::kLong);
  require(chunk >= 1, "CONFIG", "linear_cross_entropy: chunk must be at least 1, got ", chunk);
  require(groups >= 1 && hidden.size(0) % groups == 0, "CONFIG", "linear_cross_entropy: the ", hidden.size(0),
          " rows must fall into equal groups, got ", groups, " groups");
  require(given(bias) || !given(bias_sink), "CONFIG", "linear_cross_entropy: a bias_sink needs a bias");
  require_sink(kOp, "bias_sink", bias_sink, weight.size(0), weight);
  if (!given(sink)) return;
  require_shape(kOp, "sink", *sink, {weight.size(0), weight.size(1)});
  require_dtype(kOp, "sink", *sink, accumulate_type(weight.scalar_type()));
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> forward_cpu(const Tensor& hidden, const Tensor& weight, const Optional& bias,
                                                            const Tensor& target, bool with_grad, int64_t groups, int64_t chunk) {
  const int64_t N = hidden.size(0), V = weight.size(0), share = N / groups, top = N == 0 ? -1 : target.max().item<int64_t>();
  require(top < V, "TOKEN_RANGE", "linear_cross_entropy: target holds token ", top, ", the vocabulary has ", V);
  const auto sum_type = accumulate_type(hidden.scalar_type());
  auto loss = at::zeros({groups}, hidden.options().dtype(sum_type));
  auto grad_hidden = with_grad ? at::empty_like(hidden) : Tensor();
  auto grad_weight = with_grad ? at::zeros({groups, V, weight.size(1)}, weight.options().dtype(sum_type)) : Tensor();
  auto grad_bias = with_grad && given(bias) ? at::zeros({groups, V}, weight.options().dtype(sum_type)) : Tensor();
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t start = group * share; start < (group + 1) * share; start += chunk) {
      const int64_t rows = std::min(chunk, (group + 1) * share - start);
      const auto h = hidden.narrow(0, start, rows), y = target.narrow(0, start, rows);
      const auto scored = y.ge(0).to(sum_type).unsqueeze(1), index = y.clamp_min(0).unsqueeze(1);
      auto log_p = at::log_softmax(affine(h, weight, bias).to(sum_type), 1);  // (rows, V)
      loss[group].sub_((log_p.gather(1, index) * scored).sum());
      if (!with_grad) continue;
      auto grad_logits = log_p.exp_();
      grad_logits.scatter_add_(1, index, at::full_like(scored, -1)).mul_(scored);
      const auto narrow_grad = grad_logits.to(hidden.scalar_type());
      grad_hidden.narrow(0, start, rows).copy_(matrix_product(narrow_grad, weight));
      grad_weight[group].add_(matrix_product(narrow_grad.t(), h));
      if (grad_bias.defined()) grad_bias[group].add_(grad_logits.sum(0));
    }
  std::vector<Tensor> saved;
  if (with_grad) saved = {grad_hidden, grad_weight};
  if (grad_bias.defined()) saved.push_back(grad_bias);
  return {loss, target.ge(0).view({groups, share}).sum(1), saved};
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad, at::TensorList saved, const Tensor& hidden, const Tensor& weight,
                                                const Optional& bias, const Tensor& /*target*/, const Optional& sink,
                                                const Optional& bias_sink, int64_t /*chunk*/) {
  const auto &grad_hidden = saved[0], &grad_weights = saved[1];
  const int64_t groups = grad.size(0);
  const auto scaled = (grad_hidden.view({groups, hidden.size(0) / groups, hidden.size(1)}) * grad.to(hidden.scalar_type()).view({groups, 1, 1}))
                          .view_as(hidden);
  const auto grad_weight = groups == 1 ? grad_weights[0] * grad : at::einsum("gvd,g->vd", {grad_weights, grad});
  const auto grad_bias = given(bias) ? deliver(at::matmul(grad, saved[2]), bias_sink, weight.scalar_type()) : at::empty({0}, weight.options());
  return {scaled, deliver(grad_weight, sink, weight.scalar_type()), grad_bias};
}

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::linear_cross_entropy_forward");
  return op;
}

const auto& backward_op() {
  static const auto op = find_op<decltype(backward_cpu)>("memformer::linear_cross_entropy_backward");
  return op;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                                                const Optional& bias, const Tensor& target, const Optional& sink,
                                                const Optional& bias_sink, int64_t groups, int64_t chunk, bool with_grad) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, count, kept] = forward_op().call(hidden, weight, bias, target, with_grad, groups, chunk);
    if (with_grad) {
      torch::autograd::variable_list saved{hidden, weight, bias.value_or(Tensor()), target};
      saved.insert(saved.end(), kept.begin(), kept.end());
      context->save_for_backward(std::move(saved));
      context->saved_data["sink"] = sink;  // no saved variables: other backward passes add to them meanwhile
      context->saved_data["bias_sink"] = bias_sink;
      context->saved_data["chunk"] = chunk;
    }
    context->mark_non_differentiable({count});
    return {loss, count};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto sink = context->saved_data["sink"].toOptional<Tensor>(), bias_sink = context->saved_data["bias_sink"].toOptional<Tensor>();
    const auto bias = saved[2].defined() ? Optional(saved[2]) : std::nullopt;
    auto [grad_hidden, grad_weight, grad_bias] = backward_op().call(grads[0], at::TensorList(saved).slice(4), saved[0], saved[1], bias, saved[3],
                                                                    sink, bias_sink, context->saved_data["chunk"].toInt());
    if (given(sink)) grad_weight.reset();
    if (!bias || given(bias_sink)) grad_bias.reset();
    return {grad_hidden, grad_weight, grad_bias, {}, {}, {}, {}, {}, {}};
  }
};

std::tuple<Tensor, Tensor> with_gradient(const Tensor& hidden, const Tensor& weight, const Optional& bias, const Tensor& target,
                                         const Optional& sink, const Optional& bias_sink, int64_t groups, int64_t chunk) {
  check(hidden, weight, bias, target, sink, bias_sink, groups, chunk);
  const bool wanted = hidden.requires_grad() || weight.requires_grad() || (given(bias) && bias->requires_grad());
  auto results = LinearCrossEntropy::apply(hidden, weight, bias, target, sink, bias_sink, groups, chunk, at::GradMode::is_enabled() && wanted);
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor> without_gradient(const Tensor& hidden, const Tensor& weight, const Optional& bias, const Tensor& target,
                                            const Optional& sink, const Optional& bias_sink, int64_t groups, int64_t chunk) {
  check(hidden, weight, bias, target, sink, bias_sink, groups, chunk);
  auto [loss, count, kept] = forward_op().call(hidden, weight, bias, target, false, groups, chunk);
  return {loss, count};
}

}  // namespace

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Optional& bias, const Tensor& target,
                                                const Optional& sink, const Optional& bias_sink, int64_t groups, int64_t chunk) {
  static const auto op = find_op<decltype(linear_cross_entropy)>("memformer::linear_cross_entropy");
  return op.call(hidden, weight, bias, target, sink, bias_sink, groups, chunk);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor? sink, Tensor? bias_sink, int groups, int chunk)"
      " -> (Tensor loss, Tensor count)");
  library.def(
      "linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, bool with_grad, int groups, int chunk)"
      " -> (Tensor loss, Tensor count, Tensor[] saved)");
  library.def(
      "linear_cross_entropy_backward(Tensor grad, Tensor[] saved, Tensor hidden, Tensor weight, Tensor? bias, Tensor target,"
      " Tensor(a!)? sink, Tensor(b!)? bias_sink, int chunk) -> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("linear_cross_entropy_forward", &forward_cpu);
  library.impl("linear_cross_entropy_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("linear_cross_entropy", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("linear_cross_entropy", &with_gradient); }

}  // namespace memformer::ops
