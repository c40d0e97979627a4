#include "ops/slot_attention/slot_attention.h"

#include "core/op_handle.h"
#include "core/tensor_checks.h"

// Saved for backward: the inputs, the result y and lse (B, H, M), the logarithm of the softmax's denominator. The weights (M, 1 + T)
// are computed anew from lse, so that the contract is one a kernel without them in memory can keep. With g = dL/dy and
// c_i = g_i.y_i:   dL/dlogit_ij = a_ij (g_i.v_j - c_i)   with v_0 = own_i;   dL/dv_j = sum_i a_ij g_i;   dL/down_i = a_i0 g_i.
namespace memformer::ops {
namespace {

using at::Tensor;
using Mask = std::optional<Tensor>;
constexpr const char* kOp = "slot_attention";

void check(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key, const Tensor& value, const Mask& mask,
           int64_t heads) {
  require_floating(kOp, "query", query);
  require_shape(kOp, "query", query, {-1, -1, -1});
  const int64_t B = query.size(0), M = query.size(1), D = query.size(2);
  require(heads > 0 && D % heads == 0, "CONFIG", "slot_attention: heads must divide the width ", D, ", got ", heads);
  require_shape(kOp, "self_key", self_key, {B, M, D});
  require_shape(kOp, "own", own, {B, M, D});
  require_shape(kOp, "key", key, {B, -1, D});
  const int64_t T = key.size(1);
  require_shape(kOp, "value", value, {B, T, D});
  require_like(kOp, "self_key", self_key, "query", query);
  require_like(kOp, "own", own, "query", query);
  require_like(kOp, "key", key, "query", query);
  require_like(kOp, "value", value, "query", query);
  if (mask.has_value() && mask->defined()) {
    require_shape(kOp, "mask", *mask, {B, T});
    require_dtype(kOp, "mask", *mask, at::kBool);
  }
}

/// (B, N, D) -> (B H, N, E) in the accumulation dtype.
Tensor split_heads(const Tensor& x, int64_t heads) {
  const int64_t B = x.size(0), N = x.size(1), E = x.size(2) / heads;
  return x.to(accumulate_type(x.scalar_type())).view({B, N, heads, E}).transpose(1, 2).reshape({B * heads, N, E});
}

/// (B H, N, E) -> (B, N, D) in `dtype`.
Tensor merge_heads(const Tensor& x, int64_t heads, at::ScalarType dtype) {
  const int64_t B = x.size(0) / heads, N = x.size(1), E = x.size(2);
  return x.view({B, heads, N, E}).transpose(1, 2).reshape({B, N, heads * E}).to(dtype);
}

/// Logits over the tokens, (B H, M, T); padding is -inf.
Tensor token_logits(const Tensor& q, const Tensor& k, const Mask& mask, int64_t heads, double scale) {
  auto logits = at::bmm(q, k.transpose(1, 2)).mul_(scale);
  if (mask.has_value() && mask->defined()) {
    const int64_t B = mask->size(0), T = mask->size(1);
    logits.view({B, heads, -1, T}).masked_fill_(mask->logical_not().view({B, 1, 1, T}), -std::numeric_limits<double>::infinity());
  }
  return logits;
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                                       const Tensor& value, const Mask& mask, int64_t heads, double scale) {
  check(query, self_key, own, key, value, mask, heads);
  const auto q = split_heads(query, heads), k = split_heads(key, heads), v = split_heads(value, heads), o = split_heads(own, heads);
  const auto self_logit = (q * split_heads(self_key, heads)).sum(-1).mul_(scale);  // (B H, M)
  auto weights = token_logits(q, k, mask, heads, scale);                           // (B H, M, T)
  const auto lse = key.size(1) == 0 ? self_logit.clone() : at::logaddexp(at::logsumexp(weights, -1), self_logit);
  weights.sub_(lse.unsqueeze(-1)).exp_();
  const auto self_weight = (self_logit - lse).exp_();
  auto y = at::bmm(weights, v).addcmul_(self_weight.unsqueeze(-1), o);
  return {merge_heads(y, heads, query.scalar_type()), lse.view({query.size(0), heads, query.size(1)})};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& query, const Tensor& self_key,
                                                                const Tensor& own, const Tensor& key, const Tensor& value,
                                                                const Mask& mask, const Tensor& y, const Tensor& lse_bhm, int64_t heads,
                                                                double scale) {
  const auto dtype = query.scalar_type();
  const auto q = split_heads(query, heads), ks = split_heads(self_key, heads), k = split_heads(key, heads);
  const auto v = split_heads(value, heads), o = split_heads(own, heads), g = split_heads(grad, heads);
  const auto lse = lse_bhm.reshape({q.size(0), q.size(1), 1});
  const auto c = (g * split_heads(y, heads)).sum(-1, true);                                   // (B H, M, 1)
  const auto self_weight = ((q * ks).sum(-1, true) * scale - lse).exp_();                     // (B H, M, 1)
  const auto weights = token_logits(q, k, mask, heads, scale).sub_(lse).exp_();               // (B H, M, T)
  const auto grad_value = at::bmm(weights.transpose(1, 2), g);
  const auto grad_logit = at::bmm(g, v.transpose(1, 2)).sub_(c).mul_(weights).mul_(scale);    // (B H, M, T)
  const auto grad_self_logit = ((g * o).sum(-1, true) - c).mul_(self_weight).mul_(scale);     // (B H, M, 1)
  const auto grad_query = at::bmm(grad_logit, k).addcmul_(grad_self_logit, ks);
  const auto grad_key = at::bmm(grad_logit.transpose(1, 2), q);
  return {merge_heads(grad_query, heads, dtype), merge_heads(grad_self_logit * q, heads, dtype), merge_heads(self_weight * g, heads, dtype),
          merge_heads(grad_key, heads, dtype), merge_heads(grad_value, heads, dtype)};
}

using Signature = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Mask&, int64_t, double);
using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Mask&, int64_t,
                                           double);
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                                    const Tensor&, const Tensor&, const Mask&, const Tensor&,
                                                                    const Tensor&, int64_t, double);

const auto& forward_op() {
  static const auto op = find_op<Forward>("memformer::slot_attention_forward");
  return op;
}

const auto& backward_op() {
  static const auto op = find_op<Backward>("memformer::slot_attention_backward");
  return op;
}

class SlotAttention : public torch::autograd::Function<SlotAttention> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& query, const Tensor& self_key, const Tensor& own,
                        const Tensor& key, const Tensor& value, const Mask& mask, int64_t heads, double scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, lse] = forward_op().call(query, self_key, own, key, value, mask, heads, scale);
    context->save_for_backward({query, self_key, own, key, value, mask.value_or(Tensor()), y, lse});
    context->saved_data["heads"] = heads;
    context->saved_data["scale"] = scale;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Mask mask = saved[5].defined() ? Mask(saved[5]) : std::nullopt;
    auto [query, self_key, own, key, value] =
        backward_op().call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], mask, saved[6], saved[7],
                           context->saved_data["heads"].toInt(), context->saved_data["scale"].toDouble());
    return {query, self_key, own, key, value, {}, {}, {}};
  }
};

Tensor with_gradient(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key, const Tensor& value,
                     const Mask& mask, int64_t heads, double scale) {
  return SlotAttention::apply(query, self_key, own, key, value, mask, heads, scale);
}

Tensor without_gradient(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key, const Tensor& value,
                        const Mask& mask, int64_t heads, double scale) {
  return std::get<0>(forward_op().call(query, self_key, own, key, value, mask, heads, scale));
}

}  // namespace

Tensor slot_attention(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key, const Tensor& value,
                      const Mask& mask, int64_t heads, double scale) {
  static const auto op = find_op<Signature>("memformer::slot_attention");
  return op.call(query, self_key, own, key, value, mask, heads, scale);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "slot_attention(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int heads, float scale) -> Tensor");
  library.def(
      "slot_attention_forward(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int heads, float scale)"
      " -> (Tensor y, Tensor lse)");
  library.def(
      "slot_attention_backward(Tensor grad, Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, Tensor y,"
      " Tensor lse, int heads, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("slot_attention_forward", &forward_cpu);
  library.impl("slot_attention_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("slot_attention", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("slot_attention", &with_gradient); }

}  // namespace memformer::ops
