#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "core/matrix_product.h"
#include "core/op_handle.h"
#include "core/tensor_checks.h"

// Saved for backward: grad_hidden (N, D) and grad_weight (V, D) of the summed loss; backward multiplies them by dL/dloss.
namespace memformer::ops {
namespace {

using at::Tensor;
constexpr const char* kOp = "linear_cross_entropy";

void check(const Tensor& hidden, const Tensor& weight, const Tensor& target, int64_t chunk) {
  require_floating(kOp, "hidden", hidden);
  require_shape(kOp, "hidden", hidden, {-1, -1});
  require_shape(kOp, "weight", weight, {-1, hidden.size(1)});
  require_like(kOp, "weight", weight, "hidden", hidden);
  require_shape(kOp, "target", target, {hidden.size(0)});
  require_dtype(kOp, "target", target, at::kLong);
  require(chunk >= 1, "CONFIG", "linear_cross_entropy: chunk must be at least 1, got ", chunk);
  const int64_t V = weight.size(0), top = target.numel() == 0 ? -1 : target.max().item<int64_t>();
  require(top < V, "TOKEN_RANGE", "linear_cross_entropy: target holds token ", top, ", the vocabulary has ", V);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward_cpu(const Tensor& hidden, const Tensor& weight, const Tensor& target, bool with_grad,
                                                       int64_t chunk) {
  check(hidden, weight, target, chunk);
  const int64_t N = hidden.size(0);
  const auto sum_type = accumulate_type(hidden.scalar_type());
  auto loss = at::zeros({}, hidden.options().dtype(sum_type));
  auto grad_hidden = with_grad ? at::empty_like(hidden) : Tensor();
  auto grad_weight = with_grad ? at::zeros_like(weight, weight.options().dtype(sum_type)) : Tensor();
  for (int64_t start = 0; start < N; start += chunk) {
    const int64_t rows = std::min(chunk, N - start);
    const auto h = hidden.narrow(0, start, rows), y = target.narrow(0, start, rows);
    const auto scored = y.ge(0).to(sum_type).unsqueeze(1), index = y.clamp_min(0).unsqueeze(1);
    auto log_p = at::log_softmax(matrix_product(h, weight.t()).to(sum_type), 1);  // (rows, V)
    loss.sub_((log_p.gather(1, index) * scored).sum());
    if (!with_grad) continue;
    auto grad_logits = log_p.exp_();
    grad_logits.scatter_add_(1, index, at::full_like(scored, -1)).mul_(scored);
    const auto narrow_grad = grad_logits.to(hidden.scalar_type());
    grad_hidden.narrow(0, start, rows).copy_(matrix_product(narrow_grad, weight));
    grad_weight.add_(matrix_product(narrow_grad.t(), h));
  }
  return {loss, target.ge(0).sum(), grad_hidden, with_grad ? grad_weight.to(weight.scalar_type()) : grad_weight};
}

using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, int64_t);
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, bool, int64_t);

const auto& forward_op() {
  static const auto op = find_op<Forward>("memformer::linear_cross_entropy_forward");
  return op;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                                                const Tensor& target, int64_t chunk, bool with_grad) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, count, grad_hidden, grad_weight] = forward_op().call(hidden, weight, target, with_grad, chunk);
    if (with_grad) context->save_for_backward({grad_hidden, grad_weight});
    context->mark_non_differentiable({count});
    return {loss, count};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto scale = [&](const Tensor& grad) { return grad * grads[0].to(grad.scalar_type()); };
    return {scale(saved[0]), scale(saved[1]), {}, {}, {}};
  }
};

std::tuple<Tensor, Tensor> with_gradient(const Tensor& hidden, const Tensor& weight, const Tensor& target, int64_t chunk) {
  const bool with_grad = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  auto results = LinearCrossEntropy::apply(hidden, weight, target, chunk, with_grad);
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor> without_gradient(const Tensor& hidden, const Tensor& weight, const Tensor& target, int64_t chunk) {
  auto [loss, count, grad_hidden, grad_weight] = forward_op().call(hidden, weight, target, false, chunk);
  return {loss, count};
}

}  // namespace

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& target, int64_t chunk) {
  static const auto op = find_op<Signature>("memformer::linear_cross_entropy");
  return op.call(hidden, weight, target, chunk);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("linear_cross_entropy(Tensor hidden, Tensor weight, Tensor target, int chunk) -> (Tensor loss, Tensor count)");
  library.def(
      "linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor target, bool with_grad, int chunk)"
      " -> (Tensor loss, Tensor count, Tensor grad_hidden, Tensor grad_weight)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("linear_cross_entropy_forward", &forward_cpu); }
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("linear_cross_entropy", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("linear_cross_entropy", &with_gradient); }

}  // namespace memformer::ops
