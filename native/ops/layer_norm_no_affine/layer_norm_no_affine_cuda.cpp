#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/common/layer_norm_eps.h"
#include "ops/layer_norm_no_affine/layer_norm_no_affine.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using at::TensorList;

LayerNormNoAffineParams params_of(const Tensor& x, const Tensor& mean, const Tensor& rstd, at::ScalarType dtype) {
  LayerNormNoAffineParams p{};
  p.x = x.const_data_ptr();
  p.mean = mean.data_ptr();
  p.rstd = rstd.data_ptr();
  p.D = x.size(-1);
  p.N = x.numel() / p.D;
  p.eps = kLayerNormEps;
  p.x_dtype = cuda::dtype_of(x);
  p.dtype = cuda::dtype_of(dtype);
  return p;
}

std::tuple<Tensor, Tensor, Tensor> forward_cuda(const Tensor& x_in, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous();
  const int64_t N = x.numel() / x.size(-1);
  const auto z = at::empty(x.sizes(), x.options().dtype(dtype)), mean = at::empty({N}, x.options()),
             rstd = at::empty({N}, x.options());
  if (N == 0) return {z, mean, rstd};
  auto params = params_of(x, mean, rstd, dtype);
  params.z = z.mutable_data_ptr();
  launch_layer_norm_no_affine_forward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {z, mean, rstd};
}

Tensor backward_cuda(const std::optional<Tensor>& grad_x_in, TensorList grads_in, const Tensor& x_in,
                     const Tensor& mean, const Tensor& rstd) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), sent = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return sent;
  const auto grad_x = grad_x_in.has_value() ? grad_x_in->contiguous() : Tensor();
  std::vector<Tensor> grads;
  LayerNormNoAffineBackwardParams params{};
  for (const auto& grad : grads_in) {
    grads.push_back(grad.contiguous());
    params.grads[params.readers++] = grads.back().const_data_ptr();
  }
  params.forward = params_of(x, mean, rstd, grads[0].scalar_type());
  params.grad_x = grad_x.defined() ? grad_x.const_data_ptr() : nullptr;
  params.sent = sent.mutable_data_ptr();
  launch_layer_norm_no_affine_backward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return sent;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("layer_norm_no_affine_forward", &forward_cuda);
  library.impl("layer_norm_no_affine_backward", &backward_cuda);
}

}  // namespace memformer::ops
