#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/side_stream.h"
#include "core/torch.h"
#include "ops/rotary_qkv/check.h"
#include "ops/rotary_qkv/rotary_qkv.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// The kernel over q, k, v (B, H, T, E), whose last strides are 1: what it writes is (B, T, 3 D). `packed` is allocated for that.
RotaryQkvParams params_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin, const Tensor& packed,
                          bool backward) {
  const auto heads = [](const Tensor& x) { return RotaryHeads{x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)}; };
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

/// Part 0, 1 or 2 of the packed (B, T, 3 D), as a view (B, H, T, E).
Tensor part_of(const Tensor& packed, int64_t part, int64_t heads) {
  return packed.view({packed.size(0), packed.size(1), 3, heads, packed.size(2) / (3 * heads)}).select(2, part).transpose(1, 2);
}

std::tuple<Tensor, Tensor, Tensor> forward_cuda(const Tensor& qkv_in, const Optional& bias_in, const Optional& bias_sink,
                                                const Tensor& cos_in, const Tensor& sin_in, int64_t heads) {
  check_rotary_qkv(qkv_in, bias_in, bias_sink, cos_in, sin_in, heads);
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = qkv_in.contiguous(), cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const auto bias = given(bias_in) ? bias_in->contiguous() : Tensor();
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

/// What the shares' `partials` (shares, 3 D) add up to, into the sink beside the current stream, or returned.
Tensor bias_gradient(const Tensor& partials, const Optional& sink, at::ScalarType dtype) {
  const auto grad = given(sink) ? *sink : at::empty({partials.size(1)}, partials.options());
  cuda::ColumnSums sums{};
  sums.partials = partials.const_data_ptr();
  sums.sums[0] = grad.mutable_data_ptr();
  sums.add[0] = given(sink);
  sums.shares = partials.size(0);
  sums.width = partials.size(1);
  sums.kinds = 1;
  sums.is_double = partials.scalar_type() == at::kDouble;
  const auto add_up = [&] {
    launch_rotary_qkv_sums(sums, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (given(sink)) cuda::SideStream::of_current().run({partials}, add_up);
  else add_up();
  return given(sink) ? at::empty({0}, grad.options().dtype(dtype)) : grad.to(dtype);
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad_q, const Tensor& grad_k, const Tensor& grad_v, const Optional& bias_sink,
                                         const Tensor& cos_in, const Tensor& sin_in, bool with_bias) {
  const c10::cuda::CUDAGuard device(grad_q.device());
  const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const auto q = rows(grad_q), k = rows(grad_k), v = rows(grad_v), cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const int64_t tokens = q.size(0) * q.size(2), width = 3 * q.size(1) * q.size(3);
  const auto packed = at::empty({q.size(0), q.size(2), width}, q.options());
  if (packed.numel() == 0) return {packed, at::zeros({with_bias && !given(bias_sink) ? width : 0}, q.options())};
  auto params = params_of(q, k, v, cos, sin, packed, true);
  params.shares = rotary_qkv_shares(tokens, width, with_bias, params.dtype);
  Tensor partials;
  if (with_bias) {
    partials = at::empty({params.shares, width}, cos.options());
    params.partials = partials.mutable_data_ptr();
  }
  launch_rotary_qkv(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {packed, with_bias ? bias_gradient(partials, bias_sink, q.scalar_type()) : at::empty({0}, q.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("rotary_qkv", &forward_cuda);
  library.impl("rotary_qkv_backward", &backward_cuda);
}

}  // namespace memformer::ops
