#include "ops/attention/rotary_attention.h"

#include "core/operator.h"
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
                const Tensor& sin, const Optional& mask, bool causal, int64_t heads, const Optional& lengths,
                bool norm) {
  using Rotary = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Optional&, const Optional&, const Tensor&,
                                                    const Tensor&, int64_t);
  constexpr Registered<"memformer::rotary_qkv", Rotary> rotary_qkv;
  const auto [q, k, v] = rotary_qkv(qkv, bias, bias_sink, cos, sin, heads);
  // A rotation leaves the mean square as it is.
  const auto y = attention(q, k, v, mask, causal, lengths, norm, norm);
  return y.transpose(1, 2).reshape({qkv.size(0), qkv.size(1), qkv.size(2) / 3});
}

bool is_fused(const Tensor& qkv, int64_t heads) {
  const int64_t T = qkv.size(1);
  return attention_is_fused(qkv, T, T, qkv.size(2) / (3 * heads));
}

using Forward = Tensor(const Tensor&, const Optional&, const Tensor&, const Tensor&, const Optional&, bool, int64_t,
                       const Optional&, bool);
using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Optional&, const Optional&,
                                            const Tensor&, const Tensor&, const Optional&, bool, int64_t,
                                            const Optional&, bool);

constexpr Registered<"memformer::rotary_attention_forward", Forward> forward_kernel;
constexpr Registered<"memformer::rotary_attention_backward", Backward> backward_kernel;

struct FusedAttention {
  struct Saved {
    Tensor qkv, cos, sin;
    Optional bias, mask, lengths;
    bool causal;
    int64_t heads;
    bool norm;
    Destination of_bias;
    auto variables() { return std::tie(qkv, bias, cos, sin, mask, lengths); }
  };

  static Tensor forward(Saved* saved, const Tensor& qkv, const Optional& bias, const Optional& bias_sink,
                        const Tensor& cos, const Tensor& sin, const Optional& mask, bool causal, int64_t heads,
                        const Optional& lengths, bool norm) {
    if (saved != nullptr) *saved = {qkv, cos, sin, bias, mask, lengths, causal, heads, norm, {bias, bias_sink}};
    return forward_kernel(qkv, bias, cos, sin, mask, causal, heads, lengths, norm);
  }

  static std::tuple<Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    auto [qkv, bias] = backward_kernel(pass.gradients[0], s.qkv, s.bias, s.of_bias.sink, s.cos, s.sin, s.mask, s.causal,
                                       s.heads, s.lengths, s.norm);
    return {qkv, s.of_bias(std::move(bias))};
  }
};

/// By one kernel where it fits, else by two operators.
Tensor turn_and_attend(const Tensor& qkv, const Optional& bias, const Optional& bias_sink, const Tensor& cos,
                       const Tensor& sin, const Optional& mask, bool causal, int64_t heads, const Optional& lengths,
                       bool norm) {
  check_rotary(kOp, qkv, bias, bias_sink, cos, sin, heads);
  check_attention_mask(kOp, mask, causal, lengths, qkv.size(0), qkv.size(1), qkv.size(1), "qkv", qkv);
  return is_fused(qkv, heads)
             ? Operator<FusedAttention>::call(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths, norm)
             : composed(qkv, bias, bias_sink, cos, sin, mask, causal, heads, lengths, norm);
}

}  // namespace

Tensor rotary_attention(const Tensor& qkv, const Trained& bias, const Tensor& cos, const Tensor& sin,
                        const Optional& mask, bool causal, int64_t heads, const Optional& lengths, bool norm) {
  constexpr Registered<"memformer::rotary_attention", decltype(turn_and_attend)> op;
  return op(qkv, bias.optional(), bias.sink, cos, sin, mask, causal, heads, lengths, norm);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<&turn_and_attend>(
      library,
      "rotary_attention(Tensor qkv, Tensor? bias, Tensor? bias_sink, Tensor cos, Tensor sin, Tensor? mask, bool "
      "causal, int heads, Tensor? lengths=None, bool norm=False) -> Tensor");
  library.def(
      "rotary_attention_forward(Tensor qkv, Tensor? bias, Tensor cos, Tensor sin, Tensor? mask, bool causal, int "
      "heads, Tensor? lengths, bool norm) -> Tensor");
  library.def(
      "rotary_attention_backward(Tensor grad, Tensor qkv, Tensor? bias, Tensor(a!)? bias_sink, Tensor cos, Tensor sin, "
      "Tensor? mask, bool causal, int heads, Tensor? lengths, bool norm) -> (Tensor grad_qkv, Tensor grad_bias)");
}

}  // namespace memformer::ops
