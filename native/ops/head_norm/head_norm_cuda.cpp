#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/tensor_checks.h"
#include "core/torch.h"
#include "ops/head_norm/head_norm.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;

using Optional = std::optional<Tensor>;

/// x may be y.
Tensor forward_into(const Tensor& x, const Tensor& y, int64_t width, int64_t group, int64_t normed, double gain,
                    const Tensor& gains = {}) {
  const int64_t row = x.size(-1);
  const auto r =
      at::empty({x.numel() / row, row / (group * width) * normed}, x.options().dtype(accumulate_type(x.scalar_type())));
  if (x.numel() == 0) return r;
  launch_head_norm({x.const_data_ptr(), y.mutable_data_ptr(), r.mutable_data_ptr(),
                    gains.defined() ? gains.const_data_ptr() : nullptr, x.numel() / width, width, group, normed, gain,
                    cuda::dtype_of(x)},
                   c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return r;
}

std::tuple<Tensor, Tensor> forward_cuda(const Tensor& x_in, int64_t width, int64_t group, int64_t normed, double gain,
                                        const Optional& gains_in) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), y = at::empty_like(x);
  const auto gains = gains_in.has_value() && gains_in->defined() ? gains_in->contiguous() : Tensor();
  return {y, forward_into(x, y, width, group, normed, gain, gains)};
}

Tensor in_place_cuda(const Tensor& x, int64_t width, int64_t group, int64_t normed, double gain) {
  const c10::cuda::CUDAGuard device(x.device());
  return forward_into(x, x, width, group, normed, gain);
}

Tensor backward_cuda(const Tensor& grad_in, const Tensor& y, const Tensor& r, int64_t width, int64_t group,
                     int64_t normed, double gain) {
  const c10::cuda::CUDAGuard device(y.device());
  const auto grad = grad_in.contiguous(), sent = at::empty_like(grad);
  if (grad.numel() == 0) return sent;
  launch_head_norm_backward({grad.const_data_ptr(), y.const_data_ptr(), r.const_data_ptr(), sent.mutable_data_ptr(),
                             nullptr, nullptr, y.numel() / width, width, group, normed, gain, cuda::dtype_of(y)},
                            c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return sent;
}

std::tuple<Tensor, Tensor> gains_backward_cuda(const Tensor& grad_in, const Tensor& x, const Tensor& r,
                                               const Tensor& gains_in, int64_t width, int64_t group, int64_t normed,
                                               double gain) {
  const c10::cuda::CUDAGuard device(x.device());
  const auto grad = grad_in.contiguous(), sent = at::empty_like(grad), gains = gains_in.contiguous(),
             dots = at::empty({r.numel() / std::max<int64_t>(1, normed), normed}, gains.options());
  if (grad.numel() == 0) return {sent, at::zeros_like(gains)};
  launch_head_norm_backward(
      {grad.const_data_ptr(), x.const_data_ptr(), r.const_data_ptr(), sent.mutable_data_ptr(), gains.const_data_ptr(),
       dots.mutable_data_ptr(), x.numel() / width, width, group, normed, gain, cuda::dtype_of(x)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {sent, dots.sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("head_norm_forward", &forward_cuda);
  library.impl("head_norm_in_place", &in_place_cuda);
  library.impl("head_norm_backward", &backward_cuda);
  library.impl("head_norm_gains_backward", &gains_backward_cuda);
}

}  // namespace memformer::ops
