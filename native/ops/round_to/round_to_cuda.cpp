#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/round_to/round_to.cuh"
#include "ops/round_to/round_to_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;

Tensor round_cuda(const Tensor& x_in, at::ScalarType dtype) {
  check_round_to(x_in, dtype);
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous();
  const auto y = at::empty_like(x);
  RoundToParams p{};
  p.x = x.const_data_ptr();
  p.y = y.mutable_data_ptr();
  p.n = x.numel();
  p.dtype = cuda::dtype_of(x);
  p.narrow = cuda::dtype_of(dtype);
  launch_round_to(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) { library.impl("round_to", &round_cuda); }

}  // namespace memformer::ops
