#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/adamw/adamw.cuh"
#include "ops/adamw/adamw_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

void step_cuda(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
               const Optional& working, const Tensor& step, const Tensor& norm_in, const Tensor& rate, int64_t decayed,
               double beta1, double beta2, double eps, double weight_decay, double clip,
               const Optional& grad_scale_in) {
  check_adamw_step(parameters, gradients, exp_avg, exp_avg_sq, working, step, norm_in, rate, decayed);
  const c10::cuda::CUDAGuard device(parameters.device());
  const auto norm = norm_in.to(parameters.scalar_type());
  const auto grad_scale = is_defined(grad_scale_in) ? grad_scale_in->to(parameters.scalar_type()) : Tensor();
  AdamwParams params{};
  params.parameters = parameters.mutable_data_ptr();
  params.gradients = gradients.mutable_data_ptr();
  params.exp_avg = exp_avg.mutable_data_ptr();
  params.exp_avg_sq = exp_avg_sq.mutable_data_ptr();
  params.working = is_defined(working) ? working->mutable_data_ptr() : nullptr;
  params.step = step.mutable_data_ptr<float>();
  params.norm = norm.const_data_ptr();
  params.rate = rate.const_data_ptr<float>();
  params.grad_scale = grad_scale.defined() ? grad_scale.const_data_ptr() : nullptr;
  params.n = parameters.numel();
  params.decayed = decayed;
  params.beta1 = beta1;
  params.beta2 = beta2;
  params.eps = eps;
  params.weight_decay = weight_decay;
  params.clip = clip;
  params.dtype = cuda::dtype_of(parameters);
  params.working_dtype = is_defined(working) ? cuda::dtype_of(*working) : params.dtype;
  launch_adamw(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor norm_cuda(const Tensor& gradients, const Optional& grad_scale_in) {
  require_flat("gradient_norm", "gradients", gradients);
  const c10::cuda::CUDAGuard device(gradients.device());
  const auto grad_scale = is_defined(grad_scale_in) ? grad_scale_in->to(gradients.scalar_type()) : Tensor();
  const auto partials = at::empty({gradient_norm_partials(gradients.numel())}, gradients.options().dtype(at::kDouble));
  auto norm = at::empty({}, gradients.options());
  launch_gradient_norm(gradients.const_data_ptr(), grad_scale.defined() ? grad_scale.const_data_ptr() : nullptr,
                       partials.mutable_data_ptr<double>(), norm.mutable_data_ptr(), gradients.numel(),
                       cuda::dtype_of(gradients), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return norm;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("adamw_step", &step_cuda);
  library.impl("gradient_norm", &norm_cuda);
}

}  // namespace memformer::ops
