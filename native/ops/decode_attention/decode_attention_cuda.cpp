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

Tensor attention_cuda(const Tensor& q_in, const Tensor& keys_in, const Tensor& values_in, const Optional& slots_in,
                      const Optional& lengths_in, const Optional& bias_in) {
  check_decode_attention(q_in, keys_in, values_in, slots_in, lengths_in, bias_in);
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const auto q = q_in.contiguous(), keys = rows(keys_in), values = rows(values_in);
  const auto slots = contiguous(slots_in), lengths = contiguous(lengths_in), bias = contiguous(bias_in);
  const int64_t R = q.size(0), H = keys.size(1), N = keys.size(2), E = keys.size(3);
  const int64_t most = kMostDecodeScores / at::elementSize(accumulate_type(q.scalar_type()));
  require(N <= most, "CONFIG", "decode_attention: a GPU's kernel takes at most ", most, " keys, got ", N);
  const auto cache = [](const Tensor& x) {
    return DecodeCache{x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
  };
  const auto y = at::empty({R, H * E}, q.options());
  launch_decode_attention({q.const_data_ptr(), cache(keys), cache(values), pointer<int32_t>(slots),
                           pointer<int32_t>(lengths), pointer(bias), y.mutable_data_ptr(), R, keys.size(0), N,
                           static_cast<int>(H), static_cast<int>(E), cuda::dtype_of(q)},
                          c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_append", &append_cuda);
  library.impl("decode_attention", &attention_cuda);
}

}  // namespace memformer::ops
