#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/tensor_checks.h"
#include "core/torch.h"
#include "ops/token_embedding/token_embedding.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;

// Tokens are not looked at on the host, so their range is not checked.
Tensor forward_cuda(const Tensor& tokens_in, const Tensor& weight_in) {
  const c10::cuda::CUDAGuard device(weight_in.device());
  const auto tokens = tokens_in.contiguous(), weight = weight_in.contiguous();
  const int64_t N = tokens.numel(), D = weight.size(1);
  auto y = at::empty({tokens.size(0), tokens.size(1), D}, weight.options());
  if (y.numel() == 0) return y;
  launch_token_embedding_forward(
      {tokens.const_data_ptr<int64_t>(), weight.const_data_ptr(), y.mutable_data_ptr(), N, D, cuda::dtype_of(weight)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor backward_cuda(const Tensor& grad_in, const Tensor& tokens_in, const std::optional<Tensor>& sink,
                     int64_t vocabulary) {
  const c10::cuda::CUDAGuard device(grad_in.device());
  const auto grad = grad_in.contiguous(), tokens = tokens_in.contiguous();
  const int64_t N = tokens.numel(), D = grad.size(-1);
  const bool given = sink.has_value() && sink->defined();
  const auto sums =
      given ? *sink : at::zeros({vocabulary, D}, grad.options().dtype(accumulate_type(grad.scalar_type())));
  if (grad.numel() > 0) {
    auto order = at::empty({2, N}, tokens.options().dtype(at::kInt));
    int* sorted = order.mutable_data_ptr<int>();
    launch_token_embedding_backward({tokens.const_data_ptr<int64_t>(), grad.const_data_ptr(), sums.mutable_data_ptr(),
                                     sorted, sorted + N, N, D, cuda::dtype_of(grad)},
                                    c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return given ? at::empty({0}, grad.options()) : sums.to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("token_embedding_forward", &forward_cuda);
  library.impl("token_embedding_backward", &backward_cuda);
}

}  // namespace memformer::ops
