#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/biased_norm/biased_norm.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

std::tuple<Tensor, Tensor> forward_cuda(const Tensor& memory_in, const Tensor& bias_in, double eps,
                                        const Optional& reset_in, const Optional& lengths_in) {
  const c10::cuda::CUDAGuard device(memory_in.device());
  const auto memory = memory_in.contiguous(), bias = bias_in.contiguous();
  const auto reset = is_defined(reset_in) ? reset_in->contiguous() : Tensor(),
             lengths = is_defined(lengths_in) ? lengths_in->contiguous() : Tensor();
  const int64_t B = memory.size(0), M = memory.size(1), D = memory.size(2);
  auto y = at::empty(memory.sizes(), memory.options());
  auto norm = at::empty({B, M}, memory.options().dtype(accumulate_type(memory.scalar_type())));
  if (memory.numel() == 0) return {y, norm.fill_(eps)};
  BiasedNormForwardParams params{};
  params.memory = memory.const_data_ptr();
  params.bias = bias.const_data_ptr();
  params.y = y.mutable_data_ptr();
  params.norm = norm.mutable_data_ptr();
  params.B = B;
  params.M = M;
  params.reset = reset.defined() ? reset.const_data_ptr<bool>() : nullptr;
  params.lengths = lengths.defined() ? lengths.const_data_ptr<int>() : nullptr;
  params.D = D;
  params.eps = eps;
  params.dtype = cuda::dtype_of(memory);
  launch_biased_norm_forward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {y, norm};
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& y_in, const Tensor& norm_in, double eps,
                                         const Optional& reset_in, const Optional& lengths_in) {
  const c10::cuda::CUDAGuard device(y_in.device());
  const auto grad = grad_in.contiguous(), y = y_in.contiguous(), norm = norm_in.contiguous();
  const auto reset = is_defined(reset_in) ? reset_in->contiguous() : Tensor(),
             lengths = is_defined(lengths_in) ? lengths_in->contiguous() : Tensor();
  const int64_t B = y.size(0), M = y.size(1), D = y.size(2);
  auto grad_memory = at::empty(y.sizes(), y.options()), grad_bias = at::empty({M, D}, y.options());
  if (M * D == 0) return {grad_memory, grad_bias};
  BiasedNormBackwardParams params{};
  params.grad = grad.const_data_ptr();
  params.y = y.const_data_ptr();
  params.norm = norm.const_data_ptr();
  params.grad_memory = grad_memory.mutable_data_ptr();
  params.grad_bias = grad_bias.mutable_data_ptr();
  params.B = B;
  params.M = M;
  params.reset = reset.defined() ? reset.const_data_ptr<bool>() : nullptr;
  params.lengths = lengths.defined() ? lengths.const_data_ptr<int>() : nullptr;
  params.D = D;
  params.eps = eps;
  params.dtype = cuda::dtype_of(y);
  launch_biased_norm_backward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_memory, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("biased_norm_forward", &forward_cuda);
  library.impl("biased_norm_backward", &backward_cuda);
}

}  // namespace memformer::ops
