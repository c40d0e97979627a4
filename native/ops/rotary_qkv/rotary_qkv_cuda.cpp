#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/pending_sums.h"
#include "core/torch.h"
#include "ops/common/packed_qkv.h"
#include "ops/rotary_qkv/rotary_qkv.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// The kernel over q, k, v (B, H, T, E), whose last strides are 1: what it writes is (B, T, 3 D). `packed` is allocated
/// for that.
RotaryQkvParams params_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                          const Tensor& packed, bool backward) {
  const auto heads = [](const Tensor& x) {
    return RotaryHeads{x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
  };
  RotaryQkvParams params{};
  params.q = heads(q);
  params.k = heads(k);
  params.v = heads(v);
  params.cos = cos.const_data_ptr();
  params.sin = sin.const_data_ptr();
  params.packed = packed.mutable_data_ptr();
  params.B = q.size(0);
  params.T = q.size(2);
  params.H = static_cast<int>(q.size(1));
  params.half = static_cast<int>(q.size(3) / 2);
  params.opposite = backward;
  params.dtype = cuda::dtype_of(q);
  return params;
}

std::tuple<Tensor, Tensor, Tensor> forward_cuda(const Tensor& qkv_in, const Optional& bias_in,
                                                const Optional& bias_sink, const Tensor& cos_in, const Tensor& sin_in,
                                                int64_t heads) {
  check_rotary("rotary_qkv", qkv_in, bias_in, bias_sink, cos_in, sin_in, heads);
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = qkv_in.contiguous(), cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const auto bias = is_defined(bias_in) ? bias_in->contiguous() : Tensor();
  const auto y = at::empty(qkv.sizes(), qkv.options());
  if (y.numel() > 0) {
    auto params = params_of(part_of(qkv, 0, heads), part_of(qkv, 1, heads), part_of(qkv, 2, heads), cos, sin, y, false);
    params.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
    params.shares = rotary_qkv_shares(y.size(0) * y.size(1), y.size(2), false, params.dtype);
    launch_rotary_qkv(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {part_of(y, 0, heads), part_of(y, 1, heads), part_of(y, 2, heads)};
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad_q, const Tensor& grad_k, const Tensor& grad_v,
                                         const Optional& bias_sink, const Tensor& cos_in, const Tensor& sin_in,
                                         bool with_bias) {
  const c10::cuda::CUDAGuard device(grad_q.device());
  const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const auto q = rows(grad_q), k = rows(grad_k), v = rows(grad_v), cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const int64_t tokens = q.size(0) * q.size(2), width = 3 * q.size(1) * q.size(3);
  const auto packed = at::empty({q.size(0), q.size(2), width}, q.options());
  if (packed.numel() == 0) return {packed, at::zeros({with_bias && !is_defined(bias_sink) ? width : 0}, q.options())};
  auto params = params_of(q, k, v, cos, sin, packed, true);
  params.shares = rotary_qkv_shares(tokens, width, with_bias, params.dtype);
  const cuda::ColumnGradient of_bias(bias_sink, with_bias, tokens, width, cos.options());
  const auto partials = with_bias ? at::empty({params.shares, 1, width}, cos.options()) : Tensor();
  params.partials = with_bias ? partials.mutable_data_ptr() : nullptr;
  launch_rotary_qkv(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (with_bias) cuda::sum_columns(partials, {&of_bias});
  return {packed, of_bias.result(q.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("rotary_qkv", &forward_cuda);
  library.impl("rotary_qkv_backward", &backward_cuda);
}

}  // namespace memformer::ops
