#include "ops/slot_attention/slot_attention.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
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

namespace composed = slot_attention_composed;
constexpr Registered<"memformer::slot_attention_forward", decltype(composed::forward)> forward_kernel;
constexpr Registered<"memformer::slot_attention_backward", decltype(composed::backward)> backward_kernel;

struct SlotAttention {
  struct Saved {
    Tensor query, self_key, own, key, value, y, lse;
    Optional mask, lengths;
    int64_t heads;
    double scale;
    auto variables() { return std::tie(query, self_key, own, key, value, mask, y, lse, lengths); }
  };

  static Tensor forward(Saved* saved, const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                        const Tensor& value, const Optional& mask, int64_t heads, double scale,
                        const Optional& lengths) {
    check(query, self_key, own, key, value, mask, heads, lengths);
    auto [y, lse] = forward_kernel(query, self_key, own, key, value, mask, heads, scale, lengths);
    if (saved != nullptr) *saved = {query, self_key, own, key, value, y, lse, mask, lengths, heads, scale};
    return y;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    return backward_kernel(pass.gradients[0], s.query, s.self_key, s.own, s.key, s.value, s.mask, s.y, s.lse, s.heads,
                           s.scale, s.lengths);
  }
};

}  // namespace

Tensor slot_attention(const Tensor& query, const Tensor& self_key, const Tensor& own, const Tensor& key,
                      const Tensor& value, const Optional& mask, int64_t heads, double scale, const Optional& lengths) {
  constexpr Registered<"memformer::slot_attention", Signature<SlotAttention>> op;
  return op(query, self_key, own, key, value, mask, heads, scale, lengths);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<SlotAttention>(
      library,
      "slot_attention(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int heads, "
      "float scale, Tensor? lengths=None) -> Tensor");
  library.def(
      "slot_attention_forward(Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, Tensor? mask, int "
      "heads, float scale, Tensor? lengths) -> (Tensor y, Tensor lse)",
      on_cpu(&composed::forward));
  library.def(
      "slot_attention_backward(Tensor grad, Tensor query, Tensor self_key, Tensor own, Tensor key, Tensor value, "
      "Tensor? mask, Tensor y, Tensor lse, int heads, float scale, Tensor? lengths) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor)",
      on_cpu(&composed::backward));
}

}  // namespace memformer::ops
