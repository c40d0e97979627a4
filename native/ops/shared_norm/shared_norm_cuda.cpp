#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/layer_norm_eps.h"
#include "core/torch.h"
#include "ops/shared_norm/shared_norm.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using at::TensorList;

std::vector<Tensor> contiguous(TensorList tensors) {
  std::vector<Tensor> result;
  for (const auto& tensor : tensors) result.push_back(tensor.contiguous());
  return result;
}

/// Layers first ... of what both directions share.
SharedNormParams params_of(const Tensor& x, const Tensor& mean, const Tensor& rstd, TensorList weights, TensorList normed, size_t first) {
  SharedNormParams p{};
  p.x = x.const_data_ptr();
  p.mean = mean.mutable_data_ptr();
  p.rstd = rstd.mutable_data_ptr();
  p.D = x.size(-1);
  p.N = x.numel() / p.D;
  p.layers = static_cast<int>(std::min<size_t>(kSharedNorms, weights.size() - first));
  for (int l = 0; l < p.layers; ++l) {
    p.weights[l] = weights[first + l].const_data_ptr();
    p.biases[l] = p.weights[l];
    p.normed[l] = normed[first + l].data_ptr();
  }
  p.eps = kLayerNormEps;
  p.x_dtype = cuda::dtype_of(x);
  p.dtype = cuda::dtype_of(normed[first]);
  return p;
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward_cuda(const Tensor& x_in, TensorList weights_in, TensorList biases_in, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous();
  const auto weights = contiguous(weights_in), biases = contiguous(biases_in);
  const int64_t N = x.numel() / x.size(-1);
  const auto mean = at::empty({N}, x.options()), rstd = at::empty({N}, x.options());
  std::vector<Tensor> normed;
  for (size_t l = 0; l < weights.size(); ++l) normed.push_back(at::empty(x.sizes(), x.options().dtype(dtype)));
  for (size_t first = 0; N > 0 && first < weights.size(); first += kSharedNorms) {
    auto params = params_of(x, mean, rstd, weights, normed, first);
    for (int l = 0; l < params.layers; ++l) params.biases[l] = biases[first + l].const_data_ptr();
    launch_shared_norm_forward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {normed, mean, rstd};
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> backward_cuda(TensorList grads_in, const Tensor& x_in, const Tensor& mean,
                                                                           const Tensor& rstd, TensorList weights_in, TensorList weight_sinks,
                                                                           TensorList bias_sinks) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous();
  const auto weights = contiguous(weights_in), grads = contiguous(grads_in);
  const int64_t D = x.size(-1), N = x.numel() / D;
  auto grad_x = at::empty(x.sizes(), x.options());
  std::vector<Tensor> grad_weights, grad_biases;
  if (weight_sinks.empty())
    for (size_t l = 0; l < weights.size(); ++l) {
      grad_weights.push_back(at::zeros({D}, x.options()));
      grad_biases.push_back(at::zeros({D}, x.options()));
    }
  const auto partials = at::empty({shared_norm_partials(N), 2 * kSharedNorms, D}, x.options());
  for (size_t first = 0; N > 0 && first < weights.size(); first += kSharedNorms) {
    SharedNormBackwardParams params{};
    params.forward = params_of(x, mean, rstd, weights, grads, first);
    params.grad_x = grad_x.mutable_data_ptr();
    params.add_x = first > 0;
    params.partials = partials.mutable_data_ptr();
    params.add_sums = true;
    for (int l = 0; l < params.forward.layers; ++l) {
      params.weight_sums[l] = (weight_sinks.empty() ? grad_weights[first + l] : weight_sinks[first + l]).data_ptr();
      params.bias_sums[l] = (bias_sinks.empty() ? grad_biases[first + l] : bias_sinks[first + l]).data_ptr();
    }
    launch_shared_norm_backward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {grad_x, grad_weights, grad_biases};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("shared_norm_forward", &forward_cuda);
  library.impl("shared_norm_backward", &backward_cuda);
}

}  // namespace memformer::ops
