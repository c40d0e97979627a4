#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/common/add_product.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

Tensor column_sums(const Tensor& grad_logits, at::ScalarType dtype) {
  return at::sum(grad_logits, at::IntArrayRef({0}), false, dtype);
}

/// Whether the gradient of all logits is kept: it is no larger than that of the weight, which then is added up where it
/// belongs.
bool keeps_logits(const Tensor& hidden, int64_t chunk) { return hidden.size(0) <= std::min(chunk, 2 * hidden.size(1)); }

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> forward_cuda(const Tensor& hidden, const Tensor& weight,
                                                                     const Optional& bias, const Tensor& target_in,
                                                                     const Tensor& loss_weights_in, bool with_grad,
                                                                     int64_t chunk) {
  const c10::cuda::CUDAGuard device(hidden.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto target = target_in.contiguous(), loss_weights = loss_weights_in.contiguous();
  const int64_t N = hidden.size(0), V = weight.size(0), groups = loss_weights.size(0);
  const auto wide = hidden.options().dtype(loss_weights.scalar_type());
  const auto dtype = cuda::dtype_of(hidden);
  const auto total = at::empty({}, wide), loss = at::empty({groups}, wide), factors = at::empty({groups}, wide),
             losses = at::empty({N}, wide);
  const auto count = at::empty({groups}, target.options());
  launch_cross_entropy_count({target.const_data_ptr<int64_t>(), loss_weights.const_data_ptr(),
                              count.mutable_data_ptr<int64_t>(), factors.mutable_data_ptr(), groups, N / groups, dtype},
                             stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const bool kept = keeps_logits(hidden, chunk);
  const auto grad_hidden = with_grad ? at::empty(hidden.sizes(), hidden.options()) : Tensor();
  const auto grad_weight = with_grad && !kept ? at::empty(weight.sizes(), wide) : Tensor();
  auto grad_bias = with_grad && !kept && is_defined(bias) ? at::zeros({V}, wide) : Tensor();
  const auto buffer = at::empty({std::min(chunk, N), V}, hidden.options());
  for (int64_t start = 0; start < N; start += chunk) {
    const int64_t rows = std::min(chunk, N - start);
    auto logits = buffer.narrow(0, 0, rows), h = hidden.narrow(0, start, rows);
    if (is_defined(bias))
      at::addmm_out(logits, *bias, h, weight.t());
    else
      at::mm_out(logits, h, weight.t());
    CrossEntropyParams params{};
    params.logits = logits.mutable_data_ptr();
    params.target = target.narrow(0, start, rows).const_data_ptr<int64_t>();
    params.loss = losses.narrow(0, start, rows).mutable_data_ptr();
    params.factors = with_grad ? factors.const_data_ptr() : nullptr;
    params.first = start;
    params.share = N / groups;
    params.rows = rows;
    params.V = V;
    params.dtype = dtype;
    launch_cross_entropy(params, stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    if (!with_grad) continue;
    auto grad_h = grad_hidden.narrow(0, start, rows);
    at::mm_out(grad_h, logits, weight);
    if (grad_weight.defined()) cuda::add_product(grad_weight, logits, h, start == 0 ? 0 : 1);
    if (grad_bias.defined()) grad_bias.add_(column_sums(logits, grad_bias.scalar_type()));
  }
  launch_cross_entropy_sum({losses.const_data_ptr(), count.const_data_ptr<int64_t>(), loss_weights.const_data_ptr(),
                            loss.mutable_data_ptr(), total.mutable_data_ptr(), groups, N / groups, dtype},
                           stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  std::vector<Tensor> saved;
  if (with_grad) saved = {grad_hidden, kept ? buffer : grad_weight};
  if (grad_bias.defined()) saved.push_back(grad_bias);
  return {total, loss, count, saved};
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad, at::TensorList saved, const Tensor& hidden,
                                                 const Tensor& weight, const Optional& bias, const Optional& sink,
                                                 const Optional& bias_sink, int64_t chunk) {
  const c10::cuda::CUDAGuard device(hidden.device());
  const auto narrow = hidden.scalar_type(), wide = accumulate_type(narrow);
  const auto nothing = at::empty({0}, weight.options());
  const auto grad_hidden = saved[0] * grad.to(narrow);
  Tensor grad_weight = nothing, grad_bias = nothing;
  if (keeps_logits(hidden, chunk)) {
    auto sums = is_defined(sink) ? *sink : at::zeros(weight.sizes(), weight.options().dtype(wide));
    if (hidden.size(0) > 0) cuda::add_product(sums, saved[1], hidden * grad.to(narrow));
    if (!is_defined(sink)) grad_weight = sums.to(narrow);
    if (is_defined(bias)) grad_bias = accumulate_or_return(column_sums(saved[1], wide) * grad, bias_sink, narrow);
  } else {
    if (is_defined(sink))
      sink->addcmul_(saved[1], grad);
    else
      grad_weight = (saved[1] * grad).to(narrow);
    if (is_defined(bias)) grad_bias = accumulate_or_return(saved[2] * grad, bias_sink, narrow);
  }
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("linear_cross_entropy_forward", &forward_cuda);
  library.impl("linear_cross_entropy_backward", &backward_cuda);
}

}  // namespace memformer::ops
