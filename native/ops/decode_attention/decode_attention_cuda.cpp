#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_attention/decode_attention_prepared.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

Tensor append_cuda(const Tensor& qkv_in, const Optional& cos_in, const Optional& sin_in, const Tensor& slots_in,
                   const Tensor& positions_in, const Tensor& keys, const Tensor& values) {
  check_decode_append(qkv_in, cos_in, sin_in, slots_in, positions_in, keys, values);
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = qkv_in.contiguous(), slots = slots_in.contiguous(), positions = positions_in.contiguous();
  const auto cos = contiguous_or_none(cos_in), sin = contiguous_or_none(sin_in);
  const int64_t R = qkv.size(0), H = keys.size(1), E = keys.size(3);
  const auto q = at::empty({R, H * E}, qkv.options());
  launch_decode_append(
      {qkv.const_data_ptr(), pointer_or_null(cos), pointer_or_null(sin), slots.const_data_ptr<int32_t>(),
       positions.const_data_ptr<int32_t>(), q.mutable_data_ptr(), keys.mutable_data_ptr(), values.mutable_data_ptr(), R,
       keys.size(0), keys.size(2), static_cast<int>(H), static_cast<int>(E), cuda::dtype_of(qkv)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return q;
}

Tensor attend(PreparedDecodeAttention attention, const Tensor& like) {
  const c10::cuda::CUDAGuard device(like.device());
  const auto y = at::empty({attention.params.R, int64_t{attention.params.H} * attention.params.E}, like.options());
  attention.params.y = y.mutable_data_ptr();
  launch_decode_attention(attention.params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor self_attention_cuda(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                           const Tensor& positions, const Tensor& keys, const Tensor& values, bool settled) {
  return attend(PreparedDecodeAttention::of_own_token(qkv, cos, sin, slots, positions, keys, values, settled), qkv);
}

Tensor rows_cuda(const Tensor& slots_in, const Tensor& positions, const Tensor& context_lengths_in,
                 const Optional& ahead_in, int64_t last) {
  check_decode_rows(slots_in, positions, context_lengths_in, ahead_in);
  const c10::cuda::CUDAGuard device(slots_in.device());
  const auto slots = slots_in.contiguous(), context_lengths = context_lengths_in.contiguous(),
             ahead = contiguous_or_none(ahead_in);
  const auto rows = at::empty({3, slots.size(0)}, slots.options());
  launch_decode_rows(
      {slots.const_data_ptr<int32_t>(), positions.mutable_data_ptr<int32_t>(),
       context_lengths.const_data_ptr<int32_t>(), pointer_or_null<int32_t>(ahead), rows.mutable_data_ptr<int32_t>(),
       static_cast<int>(slots.size(0)), static_cast<int>(positions.size(0)), static_cast<int>(last)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return rows;
}

Tensor attention_cuda(const Tensor& q, const Tensor& keys, const Tensor& values, const Optional& slots,
                      const Optional& lengths, const Optional& bias, bool settled) {
  return attend(PreparedDecodeAttention::of_queries(q, keys, values, slots, lengths, bias, settled), q);
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_append", &append_cuda);
  library.impl("decode_attention", &attention_cuda);
  library.impl("decode_self_attention", &self_attention_cuda);
  library.impl("decode_rows", &rows_cuda);
}

}  // namespace memformer::ops
