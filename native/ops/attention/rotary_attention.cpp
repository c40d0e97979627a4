#include "ops/attention/rotary_attention.h"

#include "core/op_handle.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_checks.h"
#include "ops/common/packed_qkv.h"

// Saved for backward, where one kernel does it: qkv as it came, bias, cos, sin, mask. It turns and attends anew.
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "rotary_attention";

/// Of the two operators that this one is.
Tensor composed(const Tensor& qkv, const Optional& bias, const Optional& bias_sink, const Tensor& cos,
                const Tensor& sin, const Optional& mask, bool causal, int64_t heads, const Optional& lengths) {
  using Rotary = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Optional&, const Optional&, const Tensor&,
                                                    const Tensor&, int64_t);
  static const auto rotary_qkv = find_op<Rotary>("memformer::rotary_qkv");
  const auto [q, k, v] = rotary_qkv.call(qkv, bias, bias_sink, cos, sin, heads);
  const auto y = attention(q, k, v, mask, causal, lengths);
  return y.transpose(1, 2).reshape({qkv.size(0), qkv.size(1), qkv.size(2) / 3});
}

bool is_fused(const Tensor& qkv, int64_t heads) {
  const int64_t T = qkv.size(1);
  return attention_is_fused(qkv, T, T, qkv.size(2) / (3 * heads));
}

using Forward = Tensor(const Tensor&, const Optional&, const Tensor&, const Tensor&, const Optional&, bool, int64_t,
                       const Optional&);
using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Optional&, const Optional&,
                                            const Tensor&, const Tensor&, const Optional&, bool, int64_t,
                                            const Optional&);

void check(const Tensor& qkv, const Optional& bias, const Optional& bias_sink, const Tensor& cos, const Tensor& sin,
           const Optional& mask, bool causal, int64_t heads, const Optional& lengths) {
  check_rotary(kOp, qkv, bias, bias_sink, cos, sin, heads);
  check_attention_mask(kOp, mask, causal, lengths, qkv.size(0), qkv.size(1), qkv.size(1), "qkv", qkv);
}

Tensor fused(const Tensor& qkv, const Optional& bias, const Tensor& cos, const Tensor& sin, const Optional& mask,
             bool causal, int64_t heads, const Optional& lengths) {
  static const auto op = find_op<Forward>("memformer::rotary_attention_forward");
  return op.call(qkv, bias, cos, sin, mask, causal, heads, lengths);
}

class RotaryAttention : public torch::autograd::Function<RotaryAttention> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& qkv, const Optional& bias,
                        const Optional& bias_sink, const Tensor& cos, const Tensor& sin, const Optional& mask,
                        bool causal, int64_t heads, const Optional& lengths) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward(
        {qkv, bias.value_or(Tensor()), cos, sin, mask.value_or(Tensor()), lengths.value_or(Tensor())});
    context->saved_data["bias_sink"] = bias_sink;  // no saved variable: other backward passes add to it meanwhile
    context->saved_data["causal"] = causal;
    context->saved_data["heads"] = heads;
    return fused(qkv, bias, cos, sin, mask, causal, heads, lengths);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = find_op<Backward>("memformer::rotary_attention_backward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto optional = [&](size_t i) { return saved[i].defined() ? Optional(saved[i]) : std::nullopt; };
    const auto bias_sink = context->saved_data["bias_sink"].toOptional<Tensor>();
    auto [qkv, bias] =
        op.call(grads[0], saved[0], optional(1), bias_sink, saved[2], saved[3], optional(4),
                context->saved_data["causal"].toBool(), context->saved_data["heads"].toInt(), optional(5));
    if (!saved[1].defined() || is_defined(bias_sink)) bias.reset();
    return {qkv, bias, {}, {}, {}, {}, {}, {}, {}};
  }
};

Tensor with_gradient(const Tensor& qkv, const Optional& bias, const Optional& bias_sink, const Tensor& cos,
                     const Tensor& sin, const Optional& mask, bool causal, int64_t heads, const Optional& lengths) {
  check(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths);
  if (!is_fused(qkv, heads)) return composed(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths);
  return RotaryAttention::apply(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths);
}

Tensor without_gradient(const Tensor& qkv, const Optional& bias, const Optional& bias_sink, const Tensor& cos,
                        const Tensor& sin, const Optional& mask, bool causal, int64_t heads, const Optional& lengths) {
  check(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths);
  if (!is_fused(qkv, heads)) return composed(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths);
  return fused(qkv, bias, cos, sin, mask, causal, heads, lengths);
}

}  // namespace

Tensor rotary_attention(const Tensor& qkv, const Trained& bias, const Tensor& cos, const Tensor& sin,
                        const Optional& mask, bool causal, int64_t heads, const Optional& lengths) {
  static const auto op = find_op<decltype(without_gradient)>("memformer::rotary_attention");
  return op.call(qkv, bias.optional(), bias.sink, cos, sin, mask, causal, heads, lengths);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "rotary_attention(Tensor qkv, Tensor? bias, Tensor? bias_sink, Tensor cos, Tensor sin, Tensor? mask, bool "
      "causal, int heads,"
      " Tensor? lengths=None) -> Tensor");
  library.def(
      "rotary_attention_forward(Tensor qkv, Tensor? bias, Tensor cos, Tensor sin, Tensor? mask, bool causal, int "
      "heads, Tensor? lengths)"
      " -> Tensor");
  library.def(
      "rotary_attention_backward(Tensor grad, Tensor qkv, Tensor? bias, Tensor(a!)? bias_sink, Tensor cos, Tensor sin, "
      "Tensor? mask,"
      " bool causal, int heads, Tensor? lengths) -> (Tensor grad_qkv, Tensor grad_bias)");
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("rotary_attention", &without_gradient);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("rotary_attention", &with_gradient); }

}  // namespace memformer::ops
