#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/pending_sums.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/common/dropout_mask_of.h"
#include "ops/gelu_dropout/gelu_dropout.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// Without a bias all of x is one row. `bias` and `seed` are contiguous, or undefined.
GeluDropoutParams params_of(const Tensor& x, const Tensor& bias, const Tensor& out, double p, const Tensor& seed,
                            int64_t site, bool summed) {
  GeluDropoutParams params{};
  params.x = x.const_data_ptr();
  params.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  params.out = out.mutable_data_ptr();
  params.C = bias.defined() ? bias.size(0) : x.numel();
  params.N = x.numel() / params.C;
  params.mask = cuda::dropout_mask_of(x, p, seed, site);
  params.dtype = cuda::dtype_of(x);
  params.shares = gelu_dropout_shares(params.N, params.C, summed, params.dtype);
  return params;
}

Tensor contiguous_bias(const Optional& bias) { return is_defined(bias) ? bias->contiguous() : Tensor(); }

Tensor forward_cuda(const Tensor& x_in, const Optional& bias_in, double p, const Optional& seed_in, int64_t site) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), bias = contiguous_bias(bias_in), seed = cuda::contiguous_seed(p, seed_in);
  auto y = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return y;
  launch_gelu_dropout_forward(params_of(x, bias, y, p, seed, site, false), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& x_in, const Optional& bias_in,
                                         const Optional& bias_sink, double p, const Optional& seed_in, int64_t site) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), grad = grad_in.contiguous(), bias = contiguous_bias(bias_in);
  const auto seed = cuda::contiguous_seed(p, seed_in);
  auto grad_x = at::empty(x.sizes(), x.options());
  if (x.numel() == 0)
    return {grad_x, at::zeros({bias.defined() && !is_defined(bias_sink) ? bias.size(0) : 0}, x.options())};
  auto params = params_of(x, bias, grad_x, p, seed, site, bias.defined());
  params.grad = grad.const_data_ptr();
  const auto wide = x.options().dtype(accumulate_type(x.scalar_type()));
  const cuda::ColumnGradient of_bias(bias_sink, bias.defined(), params.N, params.C, wide);
  const auto partials = bias.defined() ? at::empty({params.shares, 1, params.C}, wide) : Tensor();
  params.partials = bias.defined() ? partials.mutable_data_ptr() : nullptr;
  launch_gelu_dropout_backward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (bias.defined()) cuda::sum_columns(partials, {&of_bias});
  return {grad_x, of_bias.result(x.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("gelu_dropout_forward", &forward_cuda);
  library.impl("gelu_dropout_backward", &backward_cuda);
}

}  // namespace memformer::ops
