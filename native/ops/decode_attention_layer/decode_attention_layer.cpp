#include "ops/decode_attention_layer/decode_attention_layer.h"

#include "ops/decode_attention_layer/decode_attention_layer_composed.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Layer = std::tuple<Tensor, Tensor>;

Layer attention_layer_on_cpu(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                             const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& query_weight,
                             const Optional& query_bias, const Tensor& keys, const Tensor& values,
                             const Optional& slots, const Optional& lengths, const Tensor& weight, bool norm_heads,
                             bool settled) {
  const ProjectedRows rows{x, branch, branch_bias, norm_weight, norm_bias, query_weight, query_bias, 1, norm_heads};
  check_decode_attention_layer("decode_attention_layer", rows, keys, weight);
  return composed_attention_layer(rows, keys, values, slots, lengths, weight, settled);
}

Layer self_attention_layer_on_cpu(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                  const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& qkv_weight,
                                  const Optional& qkv_bias, const Optional& cos, const Optional& sin,
                                  const Tensor& slots, const Tensor& positions, const Tensor& keys,
                                  const Tensor& values, const Tensor& weight, bool norm_heads, bool settled) {
  const ProjectedRows rows{x, branch, branch_bias, norm_weight, norm_bias, qkv_weight, qkv_bias, 3, norm_heads};
  check_decode_attention_layer("decode_self_attention_layer", rows, keys, weight);
  return composed_self_attention_layer(rows, cos, sin, slots, positions, keys, values, weight, settled);
}

}  // namespace

Layer decode_attention_layer(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                             const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& query_weight,
                             const Optional& query_bias, const Tensor& keys, const Tensor& values,
                             const Optional& slots, const Optional& lengths, const Tensor& weight, bool norm_heads,
                             bool settled) {
  constexpr Registered<"memformer::decode_attention_layer", decltype(decode_attention_layer)> op;
  return op(x, branch, branch_bias, norm_weight, norm_bias, query_weight, query_bias, keys, values, slots, lengths,
            weight, norm_heads, settled);
}

Layer decode_self_attention_layer(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                  const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& qkv_weight,
                                  const Optional& qkv_bias, const Optional& cos, const Optional& sin,
                                  const Tensor& slots, const Tensor& positions, const Tensor& keys,
                                  const Tensor& values, const Tensor& weight, bool norm_heads, bool settled) {
  constexpr Registered<"memformer::decode_self_attention_layer", decltype(decode_self_attention_layer)> op;
  return op(x, branch, branch_bias, norm_weight, norm_bias, qkv_weight, qkv_bias, cos, sin, slots, positions, keys,
            values, weight, norm_heads, settled);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "decode_attention_layer(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor norm_weight, Tensor norm_bias, "
      "Tensor query_weight, Tensor? query_bias, Tensor keys, Tensor values, Tensor? slots, Tensor? lengths, Tensor "
      "weight, bool norm_heads=False, bool settled=False) -> (Tensor sum, Tensor y)");
  library.def(
      "decode_self_attention_layer(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor norm_weight, Tensor "
      "norm_bias, Tensor qkv_weight, Tensor? qkv_bias, Tensor? cos, Tensor? sin, Tensor slots, Tensor positions, "
      "Tensor(a!) keys, Tensor(b!) values, Tensor weight, bool norm_heads=False, bool settled=False) -> (Tensor sum, "
      "Tensor y)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("decode_attention_layer", &attention_layer_on_cpu);
  library.impl("decode_self_attention_layer", &self_attention_layer_on_cpu);
}

}  // namespace memformer::ops
