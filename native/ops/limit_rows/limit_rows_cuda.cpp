#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/limit_rows/limit_rows.cuh"
#include "ops/limit_rows/limit_rows_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;

constexpr int64_t kMostRows = 65535;  // of a grid along y

Tensor limit_cuda(const Tensor& x_in, double decay, double limit) {
  check_limit_rows(x_in, decay, limit);
  require(x_in.size(0) <= kMostRows, "CONFIG", "limit_rows: at most ", kMostRows, " rows, got ", x_in.size(0));
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous();
  const auto y = at::empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t B = x.size(0), n = x.numel() / B;
  const auto sums = x.options().dtype(accumulate_type(x.scalar_type()));
  const auto partials = at::empty({B, limit_rows_parts(n)}, sums), factors = at::empty({B}, sums);
  LimitRowsParams p{};
  p.x = x.const_data_ptr();
  p.y = y.mutable_data_ptr();
  p.partials = partials.mutable_data_ptr();
  p.factors = factors.mutable_data_ptr();
  p.B = B, p.n = n;
  p.decay = decay, p.limit = limit;
  p.dtype = cuda::dtype_of(x);
  launch_limit_rows(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) { library.impl("limit_rows", &limit_cuda); }

}  // namespace memformer::ops
