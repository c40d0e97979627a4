#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/pending_sums.h"
#include "core/cuda/side_stream.h"
#include "core/torch.h"
#include "ops/common/add_product.h"
#include "ops/linear/linear.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

// From so many multiplications on a product fills an H100, and nothing is won by running another beside it.
constexpr int64_t kFills = int64_t{1} << 30;

Tensor forward_cuda(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional&, const Optional&) {
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const int64_t n = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  return at::linear(x.reshape({n, x.size(-1)}), weight, bias).view(shape);
}

void add_bias_gradient(const Tensor& grad_in, const Tensor& sink) {
  const auto grad = grad_in.stride(1) == 1 || grad_in.size(1) == 1 ? grad_in : grad_in.contiguous();
  BiasGradientParams params{};
  params.grad = grad.const_data_ptr();
  params.sink = sink.mutable_data_ptr();
  params.N = grad.size(0);
  params.C = grad.size(1);
  params.stride = grad.stride(0);
  params.dtype = cuda::dtype_of(grad);
  params.splits = bias_gradient_splits(params.N, params.C, params.dtype);
  const auto partials = params.splits > 1 ? at::empty({params.splits, params.C}, sink.options()) : Tensor();
  params.partials = partials.defined() ? partials.mutable_data_ptr() : nullptr;
  launch_bias_gradient(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void accumulate_cuda(const Tensor& grad, const Tensor& x, const Tensor& weight_sink, const Optional& bias_sink) {
  if (grad.numel() == 0) return;
  const c10::cuda::CUDAGuard device(grad.device());
  const auto work = [&] {
    if (x.numel() > 0) cuda::add_product(weight_sink, grad, x);
    if (bias_sink.has_value() && bias_sink->defined()) add_bias_gradient(grad, *bias_sink);
  };
  auto& side = cuda::beside_current_stream<cuda::SideStream>();
  if (grad.size(0) * grad.size(1) * x.size(1) < kFills) return side.run({grad, x}, work);
  side.join();  // it may be adding to the same sink
  work();
}

void join_cuda(const Tensor& like) {
  const c10::cuda::CUDAGuard device(like.device());
  cuda::beside_current_stream<cuda::PendingSums>().flush();
  cuda::beside_current_stream<cuda::SideStream>().join();
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("linear", &forward_cuda);
  library.impl("linear_accumulate", &accumulate_cuda);
  library.impl("synchronize_side_stream", &join_cuda);
}

}  // namespace memformer::ops
