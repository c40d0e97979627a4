#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/decode_feed_forward/decode_feed_forward.cuh"
#include "ops/decode_feed_forward/decode_feed_forward_composed.h"
#include "ops/decode_linear/decode_linear_prepared.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// The stream's sum and the branch in shares, if there is a kernel for them.
std::optional<std::tuple<Tensor, Tensor>> in_one_kernel(PreparedNormedLinear prepared, const Tensor& x,
                                                        const Tensor& down_in) {
  if (!prepared.fits_dtypes() || prepared.params.R > most_shared_rows()) return {};
  const auto down = down_in.contiguous();
  if (!fits_decode_feed_forward({prepared.params, down.const_data_ptr(), nullptr})) return {};
  auto shape = x.sizes().vec();
  shape.insert(shape.end() - 1, kDecodeShares);
  auto shares = at::empty(shape, x.options());
  const auto sum = prepared.sum();
  launch_decode_feed_forward({prepared.params, down.const_data_ptr(), shares.mutable_data_ptr<float>()},
                             c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return std::tuple{sum, shares};
}

std::tuple<Tensor, Tensor> on_cuda(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                   const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& up_weight,
                                   const Optional& up_bias, const Tensor& down_weight, bool settled) {
  check_decode_feed_forward(x, up_weight, down_weight);
  PreparedNormedLinear prepared(x, branch, branch_bias, norm_weight, norm_bias, up_weight, up_bias, /*gelu=*/true,
                                settled);
  const c10::cuda::CUDAGuard device(x.device());
  if (const auto made = in_one_kernel(std::move(prepared), x, down_weight)) return *made;
  return composed_feed_forward(x, branch, branch_bias, norm_weight, norm_bias, up_weight, up_bias, down_weight,
                               settled);
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) { library.impl("decode_feed_forward", &on_cuda); }

}  // namespace memformer::ops
