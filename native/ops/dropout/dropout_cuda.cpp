#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/common/dropout_mask_of.h"
#include "ops/dropout/dropout.cuh"
#include "ops/dropout/dropout_checks.h"

namespace memformer::ops {
namespace {

at::Tensor dropout_cuda(const at::Tensor& x_in, double p, const at::Tensor& seed_in, int64_t site) {
  check_dropout(x_in, p, seed_in);
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), seed = cuda::contiguous_seed(p, seed_in);
  auto y = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return y;
  DropoutParams params{};
  params.x = x.const_data_ptr();
  params.y = y.mutable_data_ptr();
  params.count = x.numel();
  params.mask = cuda::dropout_mask_of(x, p, seed, site);
  params.dtype = cuda::dtype_of(x);
  launch_dropout(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) { library.impl("dropout", &dropout_cuda); }

}  // namespace memformer::ops
