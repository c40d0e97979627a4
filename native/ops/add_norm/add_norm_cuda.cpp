#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/pending_sums.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/add_norm/add_norm.cuh"
#include "ops/common/dropout_mask_of.h"
#include "ops/common/layer_norm_eps.h"

namespace memformer::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using cuda::dtype_of;
using Optional = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor, Tensor> forward_cuda(const Tensor& x_in, const Optional& branch_in,
                                                        const Optional& branch_bias_in, const Tensor& weight_in,
                                                        const Tensor& bias_in, double p, const Optional& seed_in,
                                                        int64_t site, ScalarType dtype) {
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), weight = weight_in.contiguous(), bias = bias_in.contiguous();
  const auto branch = is_defined(branch_in) ? branch_in->contiguous() : Tensor();
  const auto branch_bias = is_defined(branch_bias_in) ? branch_bias_in->contiguous() : Tensor();
  const auto seed = cuda::contiguous_seed(p, seed_in);
  const int64_t D = x.size(-1), N = x.numel() / D;
  auto sum = branch.defined() ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  auto normed = at::empty(x.sizes(), x.options().dtype(dtype));
  const auto rows = x.options().dtype(accumulate_type(x.scalar_type()));
  auto mean = at::empty({N}, rows), rstd = at::empty({N}, rows);
  AddNormForwardParams params{};
  params.x = x.const_data_ptr();
  params.branch = branch.defined() ? branch.const_data_ptr() : nullptr;
  params.branch_bias = branch_bias.defined() ? branch_bias.const_data_ptr() : nullptr;
  params.weight = weight.const_data_ptr();
  params.bias = bias.const_data_ptr();
  params.sum = sum.mutable_data_ptr();
  params.normed = normed.mutable_data_ptr();
  params.mean = mean.mutable_data_ptr();
  params.rstd = rstd.mutable_data_ptr();
  params.N = N;
  params.D = D;
  params.eps = kLayerNormEps;
  if (branch.defined()) params.mask = cuda::dropout_mask_of(x, p, seed, site);
  params.x_dtype = dtype_of(x);
  params.branch_dtype = dtype_of(branch.defined() ? branch.scalar_type() : dtype);
  params.dtype = dtype_of(dtype);
  if (N > 0) {
    launch_add_norm_forward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {sum, normed, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cuda(
    const Optional& grad_sum_in, const Optional& grad_normed_in, const Tensor& sum_in, const Tensor& mean,
    const Tensor& rstd, const Tensor& weight_in, const Optional& weight_sink, const Optional& bias_sink,
    const Optional& branch_bias_sink, double p, const Optional& seed_in, int64_t site, ScalarType branch_dtype,
    bool with_branch, bool with_branch_bias) {
  const c10::cuda::CUDAGuard device(sum_in.device());
  const auto sum = sum_in.contiguous(), weight = weight_in.contiguous(), seed = cuda::contiguous_seed(p, seed_in);
  const auto grad_sum = is_defined(grad_sum_in) ? grad_sum_in->contiguous() : Tensor();
  const auto grad_normed = is_defined(grad_normed_in) ? grad_normed_in->contiguous() : Tensor();
  const int64_t D = sum.size(-1), N = sum.numel() / D;
  auto grad_x = at::empty(sum.sizes(), sum.options());
  const auto branch_options = sum.options().dtype(branch_dtype);
  auto grad_branch = with_branch ? at::empty(sum.sizes(), branch_options) : at::empty({0}, branch_options);
  const auto wide = mean.options();
  const cuda::ColumnGradient of_weight(weight_sink, true, N, D, wide), of_bias(bias_sink, true, N, D, wide);
  const cuda::ColumnGradient of_branch_bias(branch_bias_sink, with_branch_bias, N, D, wide);
  if (N > 0) {
    AddNormBackwardParams params{};
    params.x_dtype = dtype_of(sum);
    // Where a dtype is free, for there is no such tensor, it is one that goes with the others.
    params.dtype = dtype_of(grad_normed.defined() ? grad_normed.scalar_type()
                            : with_branch         ? branch_dtype
                                                  : sum.scalar_type());
    params.branch_dtype = with_branch ? dtype_of(branch_dtype) : params.dtype;
    const auto partials = at::empty({add_norm_shares(N, D, params.x_dtype), with_branch_bias ? 3 : 2, D}, wide);
    params.grad_sum = grad_sum.defined() ? grad_sum.const_data_ptr() : nullptr;
    params.grad_normed = grad_normed.defined() ? grad_normed.const_data_ptr() : nullptr;
    params.sum = sum.const_data_ptr();
    params.mean = mean.const_data_ptr();
    params.rstd = rstd.const_data_ptr();
    params.weight = weight.const_data_ptr();
    params.grad_x = grad_x.mutable_data_ptr();
    params.grad_branch = with_branch ? grad_branch.mutable_data_ptr() : nullptr;
    params.partials = partials.mutable_data_ptr();
    params.sums_branch = with_branch_bias;
    params.N = N;
    params.D = D;
    if (with_branch) params.mask = cuda::dropout_mask_of(sum, p, seed, site);
    launch_add_norm_backward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    cuda::sum_columns(partials, {&of_weight, &of_bias, &of_branch_bias});
  }
  return {grad_x, grad_branch, of_weight.result(weight.options()), of_bias.result(weight.options()),
          of_branch_bias.result(branch_options)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("add_norm_forward", &forward_cuda);
  library.impl("add_norm_backward", &backward_cuda);
}

}  // namespace memformer::ops
