#include "ops/decode_feed_forward/decode_feed_forward.h"

#include "ops/decode_feed_forward/decode_feed_forward_composed.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

std::tuple<Tensor, Tensor> on_cpu(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                  const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& up_weight,
                                  const Optional& up_bias, const Tensor& down_weight, bool settled) {
  check_decode_feed_forward(x, up_weight, down_weight);
  return composed_feed_forward(x, branch, branch_bias, norm_weight, norm_bias, up_weight, up_bias, down_weight,
                               settled);
}

}  // namespace

std::tuple<Tensor, Tensor> decode_feed_forward(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                               const Tensor& norm_weight, const Tensor& norm_bias,
                                               const Tensor& up_weight, const Optional& up_bias,
                                               const Tensor& down_weight, bool settled) {
  constexpr Registered<"memformer::decode_feed_forward", decltype(decode_feed_forward)> op;
  return op(x, branch, branch_bias, norm_weight, norm_bias, up_weight, up_bias, down_weight, settled);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "decode_feed_forward(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor norm_weight, Tensor norm_bias, Tensor "
      "up_weight, Tensor? up_bias, Tensor down_weight, bool settled=False) -> (Tensor sum, Tensor y)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("decode_feed_forward", &on_cpu); }

}  // namespace memformer::ops
