#include "ops/attention/attention.h"

#include "core/op_handle.h"
#include "core/tensor_checks.h"

// Saved for backward: q, k, v and the weights p (B H, N, M). With g = dL/dy:
//   dL/dv = p^T g      dL/ds = p (g v^T - rowsum(p g v^T))      dL/dq = dL/ds k / sqrt(E)      dL/dk = dL/ds^T q / sqrt(E)
namespace memformer::ops {
namespace {

using at::Tensor;
using Mask = std::optional<Tensor>;
constexpr const char* kOp = "attention";

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) {
  require_floating(kOp, "q", q);
  require_shape(kOp, "q", q, {-1, -1, -1, -1});
  const int64_t B = q.size(0), H = q.size(1), N = q.size(2), E = q.size(3);
  require_shape(kOp, "k", k, {B, H, -1, E});
  const int64_t M = k.size(2);
  require_shape(kOp, "v", v, {B, H, M, E});
  require_like(kOp, "k", k, "q", q);
  require_like(kOp, "v", v, "q", q);
  if (!mask.has_value() || !mask->defined()) return;
  require_dtype(kOp, "mask", *mask, at::kBool);
  const bool fits = mask->dim() == 4 && (mask->size(0) == B || mask->size(0) == 1) && mask->size(1) == 1 &&
                    (mask->size(2) == N || mask->size(2) == 1) && mask->size(3) == M;
  require(fits, "SHAPE", "attention: mask must have shape (", B, " or 1, 1, ", N, " or 1, ", M, "), got ", mask->sizes());
}

/// (B, H, N, E) -> (B H, N, E)
Tensor flat(const Tensor& x) { return x.reshape({x.size(0) * x.size(1), x.size(2), x.size(3)}); }

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) {
  check(q, k, v, mask);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  auto scores = at::bmm(flat(q), flat(k).transpose(1, 2)).mul_(scale);  // (B H, N, M)
  if (mask.has_value() && mask->defined())
    scores.view({q.size(0), q.size(1), q.size(2), k.size(2)}).masked_fill_(mask->logical_not(), -std::numeric_limits<double>::infinity());
  const auto weights = at::softmax(scores, -1);
  return {at::bmm(weights, flat(v)).view(q.sizes()), weights};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weights) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const auto g = flat(grad);
  const auto grad_v = at::bmm(weights.transpose(1, 2), g);
  const auto grad_weights = at::bmm(g, flat(v).transpose(1, 2));
  const auto grad_scores = at::_softmax_backward_data(grad_weights, weights, -1, weights.scalar_type()).mul_(scale);
  return {at::bmm(grad_scores, flat(k)).view(q.sizes()), at::bmm(grad_scores.transpose(1, 2), flat(q)).view(k.sizes()), grad_v.view(v.sizes())};
}

using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Mask&);
using Backward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);

const auto& forward_op() {
  static const auto op = find_op<Forward>("memformer::attention_forward");
  return op;
}

class Attention : public torch::autograd::Function<Attention> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, weights] = forward_op().call(q, k, v, mask);
    context->save_for_backward({q, k, v, weights});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    static const auto op = find_op<Backward>("memformer::attention_backward");
    const auto saved = context->get_saved_variables();
    auto [grad_q, grad_k, grad_v] = op.call(grads[0], saved[0], saved[1], saved[2], saved[3]);
    return {grad_q, grad_k, grad_v, {}};
  }
};

Tensor with_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) { return Attention::apply(q, k, v, mask); }

Tensor without_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) {
  return std::get<0>(forward_op().call(q, k, v, mask));
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Mask& mask) {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Mask&)>("memformer::attention");
  return op.call(q, k, v, mask);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("attention(Tensor q, Tensor k, Tensor v, Tensor? mask) -> Tensor");
  library.def("attention_forward(Tensor q, Tensor k, Tensor v, Tensor? mask) -> (Tensor y, Tensor weights)");
  library.def("attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor weights) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("attention_forward", &forward);
  library.impl("attention_backward", &backward);
  library.impl("attention", &without_gradient);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("attention", &with_gradient); }

}  // namespace memformer::ops
