#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.cuh"

// Saved for backward: lse (N), and the logits of the last chunk, which backward turns into their gradient in place. Those of the
// chunks before are computed again: one product more, and no logits but one chunk's at any time.
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

CrossEntropyParams params_of(const Tensor& logits, const Tensor& target, const Tensor& lse) {
  CrossEntropyParams params{};
  params.logits = logits.mutable_data_ptr();
  params.target = target.const_data_ptr<int64_t>();
  params.lse = lse.mutable_data_ptr();
  params.rows = logits.size(0);
  params.V = logits.size(1);
  params.dtype = cuda::dtype_of(logits);
  return params;
}

Tensor logits_into(Tensor out, const Tensor& hidden, const Tensor& weight, const Optional& bias) {
  return given(bias) ? at::addmm_out(out, *bias, hidden, weight.t()) : at::mm_out(out, hidden, weight.t());
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> forward_cuda(const Tensor& hidden, const Tensor& weight, const Optional& bias,
                                                             const Tensor& target_in, bool with_grad, int64_t groups, int64_t chunk) {
  const c10::cuda::CUDAGuard device(hidden.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto target = target_in.contiguous();
  const int64_t N = hidden.size(0), V = weight.size(0);
  const auto wide = hidden.options().dtype(accumulate_type(hidden.scalar_type()));
  const auto lse = at::empty({N}, wide), losses = at::empty({N}, wide);
  const auto buffer = at::empty({std::min(chunk, N), V}, hidden.options());
  auto logits = buffer;
  for (int64_t start = 0; start < N; start += chunk) {
    const int64_t rows = std::min(chunk, N - start);
    logits = logits_into(buffer.narrow(0, 0, rows), hidden.narrow(0, start, rows), weight, bias);
    auto params = params_of(logits, target.narrow(0, start, rows), lse.narrow(0, start, rows));
    params.loss = losses.narrow(0, start, rows).mutable_data_ptr();
    launch_cross_entropy_forward(params, stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const auto loss = at::empty({groups}, wide), count = at::empty({groups}, target.options());
  launch_cross_entropy_sum({losses.const_data_ptr(), target.const_data_ptr<int64_t>(), loss.mutable_data_ptr(),
                            count.mutable_data_ptr<int64_t>(), groups, N / groups, cuda::dtype_of(hidden)}, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {loss, count, with_grad ? std::vector<Tensor>{lse, logits} : std::vector<Tensor>()};
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_in, at::TensorList saved, const Tensor& hidden, const Tensor& weight,
                                                 const Optional& bias, const Tensor& target_in, const Optional& sink,
                                                 const Optional& bias_sink, int64_t chunk) {
  const c10::cuda::CUDAGuard device(hidden.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto &lse = saved[0], &last = saved[1];
  const auto target = target_in.contiguous();
  const auto grad = grad_in.contiguous();
  const int64_t N = hidden.size(0);
  auto grad_hidden = at::empty(hidden.sizes(), hidden.options());
  auto grad_weight = given(sink) ? *sink : at::zeros(weight.sizes(), weight.options().dtype(lse.scalar_type()));
  auto grad_bias = given(bias_sink) ? *bias_sink : at::zeros({given(bias) ? weight.size(0) : 0}, grad_weight.options());
  const int64_t last_start = N == 0 ? 0 : (N - 1) / chunk * chunk;
  // The last chunk goes first, while its logits are there; then the others find a place.
  const auto others = last_start > 0 ? at::empty({chunk, weight.size(0)}, hidden.options()) : Tensor();
  for (int64_t start = last_start; N > 0 && start >= 0; start -= chunk) {
    const int64_t rows = std::min(chunk, N - start);
    const auto h = hidden.narrow(0, start, rows);
    const auto logits = start == last_start ? last : logits_into(others, h, weight, bias);
    auto params = params_of(logits, target.narrow(0, start, rows), lse.narrow(0, start, rows));
    params.grad = grad.const_data_ptr();
    params.first = start;
    params.share = N / grad.numel();
    launch_cross_entropy_backward(params, stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    auto grad_h = grad_hidden.narrow(0, start, rows);
    at::mm_out(grad_h, logits, weight);
    if (grad_weight.scalar_type() == hidden.scalar_type()) grad_weight.addmm_(logits.t(), h);
    else at::addmm_out(grad_weight, grad_weight, logits.t(), h, grad_weight.scalar_type(), 1, 1);
    if (given(bias)) grad_bias.add_(at::sum(logits, at::IntArrayRef({0}), false, grad_bias.scalar_type()));
  }
  const auto sent = [&](const Tensor& gradient, const Optional& sink) {
    return given(sink) ? at::empty({0}, weight.options()) : gradient.to(weight.scalar_type());
  };
  return {grad_hidden, sent(grad_weight, sink), sent(grad_bias, bias_sink)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("linear_cross_entropy_forward", &forward_cuda);
  library.impl("linear_cross_entropy_backward", &backward_cuda);
}

}  // namespace memformer::ops
