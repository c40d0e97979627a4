#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/decode_attention/decode_attention_prepared.h"
#include "ops/decode_attention_linear/decode_attention_linear.cuh"
#include "ops/decode_attention_linear/decode_attention_linear_composed.h"
#include "ops/decode_linear/decode_shares.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// The product in shares, if there is a kernel for it.
Optional in_one_kernel(const PreparedDecodeAttention& attention, const Tensor& weight_in) {
  const auto weight = weight_in.contiguous();
  const c10::cuda::CUDAGuard device(weight.device());
  DecodeAttentionLinearParams p{attention.params, weight.const_data_ptr(), nullptr};
  if (!fits_decode_attention_linear(p)) return {};
  auto shares = at::empty({p.attention.R, kDecodeShares, weight.size(0)}, weight.options().dtype(at::kFloat));
  p.shares = shares.mutable_data_ptr<float>();
  launch_decode_attention_linear(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return shares;
}

Tensor attention_linear_cuda(const Tensor& q, const Tensor& keys, const Tensor& values, const Optional& slots,
                             const Optional& lengths, const Optional& bias, const Tensor& weight, bool settled) {
  check_decode_attention_linear("decode_attention_linear", "q", q, keys, weight);
  if (q.size(0) <= most_shared_rows())
    if (const auto shares =
            in_one_kernel(PreparedDecodeAttention::of_queries(q, keys, values, slots, lengths, bias, settled), weight))
      return *shares;
  return composed_attention_linear(q, keys, values, slots, lengths, bias, weight, settled);
}

Tensor self_attention_linear_cuda(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                                  const Tensor& positions, const Tensor& keys, const Tensor& values,
                                  const Tensor& weight, bool settled) {
  check_decode_attention_linear("decode_self_attention_linear", "qkv", qkv, keys, weight);
  if (qkv.size(0) <= most_shared_rows())
    if (const auto shares = in_one_kernel(
            PreparedDecodeAttention::of_own_token(qkv, cos, sin, slots, positions, keys, values, settled), weight))
      return *shares;
  return composed_self_attention_linear(qkv, cos, sin, slots, positions, keys, values, weight, settled);
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_attention_linear", &attention_linear_cuda);
  library.impl("decode_self_attention_linear", &self_attention_linear_cuda);
}

}  // namespace memformer::ops
