#include "ops/attention/cross_attention.h"

#include "core/cuda.h"
#include "core/operator.h"
#include "ops/attention/attention_block_size.h"

// Saved for backward: q, k, v, the result y and lse (B, H, N), the logarithms of the softmax's denominators.
namespace memformer::ops {
namespace {

using at::Tensor;
using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&);
using Backward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                    const Tensor&, const Tensor&);

constexpr Registered<"memformer::cross_attention_forward", Forward> forward_kernel;
constexpr Registered<"memformer::cross_attention_backward", Backward> backward_kernel;

struct CrossAttention {
  struct Saved {
    Tensor q, k, v, y, lse;
    auto variables() { return std::tie(q, k, v, y, lse); }
  };

  static Tensor forward(Saved* saved, const Tensor& q, const Tensor& k, const Tensor& v) {
    auto [y, lse] = forward_kernel(q, k, v);
    if (saved != nullptr) *saved = {q, k, v, y, lse};
    return y;
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    return backward_kernel(pass.gradients[0], s.q, s.k, s.v, s.y, s.lse);
  }
};

bool fits(const Tensor& x, int64_t shorter, int64_t longer) {
  const auto dtype = x.scalar_type();
  return x.is_cuda() && (dtype == at::kBFloat16 || dtype == at::kHalf) &&
         cross_attention_fits(x.size(0) * x.size(1), shorter, longer, x.size(3),
                              cuda()->block_memory(x.device().index()));
}

bool long_queries_fit(const Tensor& q, const Tensor& k) { return fits(q, k.size(2), q.size(2)); }

}  // namespace

bool cross_attention_fits(const Tensor& q, const Tensor& k) {
  return k.size(2) > kShortRows && fits(q, q.size(2), k.size(2));
}

Tensor cross_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  return Operator<CrossAttention>::call(q, k, v);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("cross_attention_forward(Tensor q, Tensor k, Tensor v) -> (Tensor y, Tensor lse)");
  library.def(
      "cross_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse) -> (Tensor, Tensor, "
      "Tensor)");
  library.def("cross_attention_queries_fits(Tensor q, Tensor k) -> bool", on_every_device(&long_queries_fit));
  library.def(
      "cross_attention_queries_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor lse, Tensor delta, "
      "Tensor(a!) grad_q, Tensor(b!) grad_k, Tensor(c!) grad_v, float scale, Tensor? lengths) -> ()");
}

}  // namespace memformer::ops
