#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "ops/decode_attention/decode_attention_prepared.h"
#include "ops/decode_attention_layer/decode_attention_layer.cuh"
#include "ops/decode_attention_layer/decode_attention_layer_composed.h"
#include "ops/decode_linear/decode_linear_prepared.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Layer = std::tuple<Tensor, Tensor>;

PreparedNormedLinear prepared(const ProjectedRows& rows, bool settled) {
  return {rows.x,      rows.branch, rows.branch_bias, rows.norm_weight, rows.norm_bias,
          rows.weight, rows.bias,   /*gelu=*/false,   settled};
}

/// The stream's sum and the branch in shares, if there is a kernel for them. attention(rows (R, kinds D)): of such
/// rows, which are not read.
template <typename Attention>
std::optional<Layer> in_one_kernel(const ProjectedRows& rows, const Tensor& weight_in, bool settled,
                                   Attention&& attention) {
  auto projection = prepared(rows, settled);
  const int64_t R = projection.params.R;
  if (!projection.fits_dtypes() || R > std::min(kMostLayerRows, most_shared_rows())) return {};
  const auto held = attention(at::empty({R, rows.weight.size(0)}, rows.weight.options()));
  const auto weight = weight_in.contiguous();
  if (!fits_decode_attention_layer({projection.params, held.params, weight.const_data_ptr(), nullptr, rows.norm_heads}))
    return {};
  auto shares = at::empty({R, kDecodeShares, weight.size(0)}, rows.x.options());
  const auto sum = projection.sum();
  launch_decode_attention_layer(
      {projection.params, held.params, weight.const_data_ptr(), shares.mutable_data_ptr<float>(), rows.norm_heads},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return Layer{sum, shares};
}

Layer attention_layer_cuda(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                           const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& query_weight,
                           const Optional& query_bias, const Tensor& keys, const Tensor& values, const Optional& slots,
                           const Optional& lengths, const Tensor& weight, bool norm_heads, bool settled) {
  const ProjectedRows rows{x, branch, branch_bias, norm_weight, norm_bias, query_weight, query_bias, 1, norm_heads};
  check_decode_attention_layer("decode_attention_layer", rows, keys, weight);
  const c10::cuda::CUDAGuard device(x.device());
  const auto made = in_one_kernel(rows, weight, settled, [&](const Tensor& q) {
    return PreparedDecodeAttention::of_queries(q, keys, values, slots, lengths, {}, settled);
  });
  return made ? *made : composed_attention_layer(rows, keys, values, slots, lengths, weight, settled);
}

Layer self_attention_layer_cuda(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& qkv_weight,
                                const Optional& qkv_bias, const Optional& cos, const Optional& sin, const Tensor& slots,
                                const Tensor& positions, const Tensor& keys, const Tensor& values, const Tensor& weight,
                                bool norm_heads, bool settled) {
  const ProjectedRows rows{x, branch, branch_bias, norm_weight, norm_bias, qkv_weight, qkv_bias, 3, norm_heads};
  check_decode_attention_layer("decode_self_attention_layer", rows, keys, weight);
  const c10::cuda::CUDAGuard device(x.device());
  const auto made = in_one_kernel(rows, weight, settled, [&](const Tensor& qkv) {
    return PreparedDecodeAttention::of_own_token(qkv, cos, sin, slots, positions, keys, values, settled);
  });
  return made ? *made : composed_self_attention_layer(rows, cos, sin, slots, positions, keys, values, weight, settled);
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_attention_layer", &attention_layer_cuda);
  library.impl("decode_self_attention_layer", &self_attention_layer_cuda);
}

}  // namespace memformer::ops
