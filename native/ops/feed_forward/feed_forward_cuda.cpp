#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/packed.h"
#include "core/cuda/pending_sums.h"
#include "core/gradient_sink.h"
#include "ops/feed_forward/feed_forward.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using cuda::packed;

/// All but pre and partials. The tensors are packed, and have to outlive the launch.
FeedForwardParams params_of(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out) {
  FeedForwardParams params{};
  params.x = x.const_data_ptr();
  params.weight = weight.const_data_ptr();
  params.bias = bias.const_data_ptr();
  params.out = out.mutable_data_ptr();
  params.N = x.size(0);
  params.D = x.size(1);
  params.F = out.size(1);
  params.shares = feed_forward_shares(params.N, params.F);
  params.dtype = cuda::dtype_of(x);
  return params;
}

std::tuple<Tensor, Tensor> forward_cuda(const Tensor& x_in, const Tensor& up_in, const Tensor& bias_in, bool kept) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = packed(x_in), up = packed(up_in), bias = packed(bias_in);
  auto activation = at::empty({x.size(0), up.size(0)}, x.options());
  auto pre = kept ? at::empty_like(activation) : at::empty({0}, x.options());
  auto params = params_of(x, up, bias, activation);
  params.pre = kept ? pre.mutable_data_ptr() : nullptr;
  C10_CUDA_CHECK(launch_feed_forward_forward(params, c10::cuda::getCurrentCUDAStream()));
  return {pre, activation};
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& down_in, const Tensor& pre_in,
                                         const Tensor& bias_in, const Optional& bias_sink) {
  const c10::cuda::CUDAGuard device(grad_in.device());
  const auto grad = packed(grad_in), down = packed(down_in), pre = packed(pre_in), bias = packed(bias_in);
  auto grad_pre = at::empty_like(pre);
  auto params = params_of(grad, down, bias, grad_pre);
  params.pre = const_cast<void*>(pre.const_data_ptr());
  const auto wide = grad.options().dtype(at::kFloat);
  const cuda::ColumnGradient of_bias(bias_sink, true, params.N, params.F, wide);
  const auto partials = at::empty({params.shares, 1, params.F}, wide);
  params.partials = partials.mutable_data_ptr<float>();
  C10_CUDA_CHECK(launch_feed_forward_backward(params, c10::cuda::getCurrentCUDAStream()));
  cuda::sum_columns(partials, {&of_bias});
  return {grad_pre, of_bias.result(grad.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("feed_forward_fused", &forward_cuda);
  library.impl("feed_forward_fused_backward", &backward_cuda);
}

}  // namespace memformer::ops
