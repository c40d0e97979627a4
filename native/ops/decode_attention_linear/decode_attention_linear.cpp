#include "ops/decode_attention_linear/decode_attention_linear_composed.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

Tensor attention_linear_on_cpu(const Tensor& q, const Tensor& keys, const Tensor& values, const Optional& slots,
                               const Optional& lengths, const Optional& bias, const Tensor& weight, bool settled) {
  check_decode_attention_linear("decode_attention_linear", "q", q, keys, weight);
  return composed_attention_linear(q, keys, values, slots, lengths, bias, weight, settled);
}

Tensor self_attention_linear_on_cpu(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                                    const Tensor& positions, const Tensor& keys, const Tensor& values,
                                    const Tensor& weight, bool settled) {
  check_decode_attention_linear("decode_self_attention_linear", "qkv", qkv, keys, weight);
  return composed_self_attention_linear(qkv, cos, sin, slots, positions, keys, values, weight, settled);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "decode_attention_linear(Tensor q, Tensor keys, Tensor values, Tensor? slots, Tensor? lengths, Tensor? bias, "
      "Tensor weight, bool settled=False) -> Tensor");
  library.def(
      "decode_self_attention_linear(Tensor qkv, Tensor? cos, Tensor? sin, Tensor slots, Tensor positions, Tensor(a!) "
      "keys, Tensor(b!) values, Tensor weight, bool settled=False) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("decode_attention_linear", &attention_linear_on_cpu);
  library.impl("decode_self_attention_linear", &self_attention_linear_on_cpu);
}

}  // namespace memformer::ops
