#include "ops/slot_attention/slot_attention.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "core/tensor_checks.h"
#include "ops/slot_attention/slot_attention_composed.h"

// Saved for backward: the inputs, the result y and lse (B, H, M), the logarithm of the softmax's denominator. The
// weights (M, 1 + T) are computed anew from lse, so that the contract is one a kernel without them in memory can keep.
// With g = dL/dy and c_i = g_i.y_i:   dL/dlogit_ij = a_ij (g_i.v_j - c_i)   with v_0 = own_i;   dL/dv_j = sum_i a_ij
// g_i;   dL/down_i = a_i0 g_i.
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "slot_attention";

void check(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key, const Tensor& value,
           const Optional& mask, int64_t heads, const Optional& lengths) {
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
  const auto dtype = query.scalar_type();
  const bool narrow = dtype == at::kBFloat16 || dtype == at::kHalf;
  require(own.scalar_type() == dtype || (narrow && own.scalar_type() == at::kFloat), "DTYPE", kOp,
          ": own must have query's dtype ", c10::toString(dtype), ", or Float beside BFloat16 or Half, got ",
          c10::toString(own.scalar_type()));
  require(own.device() == query.device(), "DEVICE_MISMATCH", kOp, ": own must be on query's device ",
          query.device().str(), ", got ", own.device().str());
  require_like(kOp, "key", key, "query", query);
  require_like(kOp, "value", value, "query", query);
  require_lengths(kOp, lengths, B, "query", query);
  if (is_defined(mask)) {
    require(!is_defined(lengths), "CONFIG", kOp, ": takes a mask or lengths, got both");
    require_shape(kOp, "mask", *mask, {B, T});
    require_dtype(kOp, "mask", *mask, at::kBool);
    require(mask->device() == query.device(), "DEVICE_MISMATCH", kOp, ": mask must be on query's device ",
            query.device().str(), ", got ", mask->device().str());
  }
}

using Signature = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&,
                         int64_t, double, const Optional&);
using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                           const Optional&, int64_t, double, const Optional&);
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                    const Tensor&, const Tensor&, const Tensor&,
                                                                    const Optional&, const Tensor&, const Tensor&,
                                                                    int64_t, double, const Optional&);

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
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& query, const Tensor& self_key,
                        const Tensor& own, const Tensor& key, const Tensor& value, const Optional& mask, int64_t heads,
                        double scale, const Optional& lengths) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, lse] = forward_op().call(query, self_key, own, key, value, mask, heads, scale, lengths);
    context->save_for_backward(
        {query, self_key, own, key, value, mask.value_or(Tensor()), y, lse, lengths.value_or(Tensor())});
    context->saved_data["heads"] = heads;
    context->saved_data["scale"] = scale;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto optional = [&](size_t i) { return saved[i].defined() ? Optional(saved[i]) : std::nullopt; };
    auto [query, self_key, own, key, value] =
        backward_op().call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], optional(5), saved[6], saved[7],
                           context->saved_data["heads"].toInt(), context->saved_data["scale"].toDouble(), optional(8));
    return {query, self_key, own, key, value, {}, {}, {}, {}};
  }
};

Tensor with_gradient(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                     const Tensor& value, const Optional& mask, int64_t heads, double scale, const Optional& lengths) {
  check(query, self_key, own, key, value, mask, heads, lengths);
  return SlotAttention::apply(query, self_key, own, key, value, mask, heads, scale, lengths);
}

Tensor without_gradient(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                        const Tensor& value, const Optional& mask, int64_t heads, double scale,
                        const Optional& lengths) {
  check(query, self_key, own, key, value, mask, heads, lengths);
  return std::get<0>(forward_op().call(query, self_key, own, key, value, mask, heads, scale, lengths));
}

}  // namespace

Tensor slot_attention(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                      const Tensor& value, const Optional& mask, int64_t heads, double scale, const Optional& lengths) {
  static const auto op = find_op<Signature>("memformer::slot_attention");
  return op.call(query, self_key, own, key, value, mask, heads, scale, lengths);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "slot_attention(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int heads, "
      "float scale,"
      " Tensor? lengths=None) -> Tensor");
  library.def(
      "slot_attention_forward(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int "
      "heads, float scale,"
      " Tensor? lengths) -> (Tensor y, Tensor lse)");
  library.def(
      "slot_attention_backward(Tensor grad, Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, "
      "Tensor? mask, Tensor y,"
      " Tensor lse, int heads, float scale, Tensor? lengths) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("slot_attention_forward", &slot_attention_composed::forward);
  library.impl("slot_attention_backward", &slot_attention_composed::backward);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("slot_attention", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("slot_attention", &with_gradient); }

}  // namespace memformer::ops
