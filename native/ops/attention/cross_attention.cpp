#include "ops/attention/cross_attention.h"

#include "core/cuda.h"
#include "core/op_handle.h"
#include "ops/attention/attention_block_size.h"

// Saved for backward: q, k, v, the result y and lse (B, H, N), the logarithms of the softmax's denominators.
namespace memformer::ops {
namespace {

using at::Tensor;
using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&);
using Backward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                    const Tensor&, const Tensor&);

class CrossAttention : public torch::autograd::Function<CrossAttention> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v) {
    static const auto op = find_op<Forward>("memformer::cross_attention_forward");
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, lse] = op.call(q, k, v);
    context->save_for_backward({q, k, v, y, lse});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = find_op<Backward>("memformer::cross_attention_backward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    auto [grad_q, grad_k, grad_v] = op.call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4]);
    return {grad_q, grad_k, grad_v};
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

Tensor cross_attention(const Tensor& q, const Tensor& k, const Tensor& v) { return CrossAttention::apply(q, k, v); }

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("cross_attention_forward(Tensor q, Tensor k, Tensor v) -> (Tensor y, Tensor lse)");
  library.def(
      "cross_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse) -> (Tensor, Tensor, "
      "Tensor)");
  library.def("cross_attention_queries_fits(Tensor q, Tensor k) -> bool");
  library.def(
      "cross_attention_queries_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor lse, Tensor delta, "
      "Tensor(a!) "
      "grad_q,"
      " Tensor(b!) grad_k, Tensor(c!) grad_v, float scale, Tensor? lengths) -> ()");
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("cross_attention_queries_fits", &long_queries_fit);
}

}  // namespace memformer::ops
