#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_attention/decode_attention_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

Tensor contiguous(const Optional& tensor) { return is_defined(tensor) ? tensor->contiguous() : Tensor(); }

template <typename T = void>
const T* pointer(const Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

void require_scores_fit(int64_t N, const Tensor& q) {
  const int64_t most = kMostDecodeScores / at::elementSize(accumulate_type(q.scalar_type()));
  require(N <= most, "CONFIG", "decode_attention: a GPU's kernel takes at most ", most, " keys, got ", N);
}

Tensor append_cuda(const Tensor& qkv_in, const Optional& cos_in, const Optional& sin_in, const Tensor& slots_in,
                   const Tensor& positions_in, const Tensor& keys, const Tensor& values) {
  check_decode_append(qkv_in, cos_in, sin_in, slots_in, positions_in, keys, values);
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = qkv_in.contiguous(), slots = slots_in.contiguous(), positions = positions_in.contiguous();
  const auto cos = contiguous(cos_in), sin = contiguous(sin_in);
  const int64_t R = qkv.size(0), H = keys.size(1), E = keys.size(3);
  const auto q = at::empty({R, H * E}, qkv.options());
  launch_decode_append(
      {qkv.const_data_ptr(), pointer(cos), pointer(sin), slots.const_data_ptr<int32_t>(),
       positions.const_data_ptr<int32_t>(), q.mutable_data_ptr(), keys.mutable_data_ptr(), values.mutable_data_ptr(), R,
       keys.size(0), keys.size(2), static_cast<int>(H), static_cast<int>(E), cuda::dtype_of(qkv)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return q;
}

Tensor self_attention_cuda(const Tensor& qkv_in, const Optional& cos_in, const Optional& sin_in, const Tensor& slots_in,
                           const Tensor& positions_in, const Tensor& keys, const Tensor& values, bool settled) {
  check_decode_append(qkv_in, cos_in, sin_in, slots_in, positions_in, keys, values);
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = qkv_in.contiguous(), slots = slots_in.contiguous(), positions = positions_in.contiguous();
  const auto cos = contiguous(cos_in), sin = contiguous(sin_in);
  const int64_t R = qkv.size(0), S = keys.size(0), H = keys.size(1), T = keys.size(2), E = keys.size(3);
  require_scores_fit(T, qkv);
  const auto y = at::empty({R, H * E}, qkv.options());
  DecodeAttentionParams p{};
  p.append = {qkv.const_data_ptr(),
              pointer(cos),
              pointer(sin),
              slots.const_data_ptr<int32_t>(),
              positions.const_data_ptr<int32_t>(),
              nullptr,
              keys.mutable_data_ptr(),
              values.mutable_data_ptr(),
              R,
              S,
              T,
              static_cast<int>(H),
              static_cast<int>(E),
              cuda::dtype_of(qkv)};
  p.keys = {keys.const_data_ptr(), keys.stride(0), keys.stride(1), keys.stride(2)};
  p.values = {values.const_data_ptr(), values.stride(0), values.stride(1), values.stride(2)};
  p.slots = p.append.slots;
  p.y = y.mutable_data_ptr();
  p.R = R, p.S = S, p.N = T;
  p.H = static_cast<int>(H), p.E = static_cast<int>(E);
  p.dtype = p.append.dtype;
  p.settled = settled;
  launch_decode_attention(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor rows_cuda(const Tensor& slots_in, const Tensor& positions, const Tensor& context_lengths_in,
                 const Optional& ahead_in, int64_t last) {
  check_decode_rows(slots_in, positions, context_lengths_in, ahead_in);
  const c10::cuda::CUDAGuard device(slots_in.device());
  const auto slots = slots_in.contiguous(), context_lengths = context_lengths_in.contiguous(),
             ahead = contiguous(ahead_in);
  const auto rows = at::empty({3, slots.size(0)}, slots.options());
  launch_decode_rows(
      {slots.const_data_ptr<int32_t>(), positions.mutable_data_ptr<int32_t>(),
       context_lengths.const_data_ptr<int32_t>(), pointer<int32_t>(ahead), rows.mutable_data_ptr<int32_t>(),
       static_cast<int>(slots.size(0)), static_cast<int>(positions.size(0)), static_cast<int>(last)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return rows;
}

Tensor attention_cuda(const Tensor& q_in, const Tensor& keys_in, const Tensor& values_in, const Optional& slots_in,
                      const Optional& lengths_in, const Optional& bias_in, bool settled) {
  check_decode_attention(q_in, keys_in, values_in, slots_in, lengths_in, bias_in);
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const auto q = q_in.contiguous(), keys = rows(keys_in), values = rows(values_in);
  const auto slots = contiguous(slots_in), lengths = contiguous(lengths_in), bias = contiguous(bias_in);
  const int64_t R = q.size(0), H = keys.size(1), N = keys.size(2), E = keys.size(3);
  require_scores_fit(N, q);
  const auto cache = [](const Tensor& x) {
    return DecodeCache{x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
  };
  const auto y = at::empty({R, H * E}, q.options());
  launch_decode_attention({q.const_data_ptr(),
                           {},
                           cache(keys),
                           cache(values),
                           pointer<int32_t>(slots),
                           pointer<int32_t>(lengths),
                           pointer(bias),
                           y.mutable_data_ptr(),
                           R,
                           keys.size(0),
                           N,
                           static_cast<int>(H),
                           static_cast<int>(E),
                           cuda::dtype_of(q),
                           settled},
                          c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_append", &append_cuda);
  library.impl("decode_attention", &attention_cuda);
  library.impl("decode_self_attention", &self_attention_cuda);
  library.impl("decode_rows", &rows_cuda);
}

}  // namespace memformer::ops
