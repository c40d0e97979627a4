#include <ATen/SDPBackend.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/attention/attention_heads.h"
#include "ops/attention/cross_attention.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;

/// With the kernel that LibTorch would choose, where it tells the logarithms of the denominators.
std::tuple<Tensor, Tensor> forward_cuda(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in);
  Tensor y, lse;
  if (at::_fused_sdp_choice(q, k, v) == static_cast<int64_t>(at::SDPBackend::cudnn_attention)) {
    const auto results = at::_scaled_dot_product_cudnn_attention(q, k, v, std::nullopt, /*compute_log_sumexp=*/true);
    y = std::get<0>(results);
    lse = std::get<1>(results);  // (B, H, N) or (B, H, N, 1)
  } else {
    const auto results = at::_scaled_dot_product_flash_attention(q, k, v);
    y = std::get<0>(results);
    lse = std::get<1>(results);
  }
  return {y, lse.reshape({q.size(0), q.size(1), q.size(2)}).contiguous()};
}

CrossAttentionParams params_of(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                               const Tensor& grad_q, const Tensor& grad_k, const Tensor& grad_v, double scale) {
  CrossAttentionParams params{};
  params.q = attention_heads(q);
  params.k = attention_heads(k);
  params.v = attention_heads(v);
  params.grad = attention_heads(grad);
  params.lse = lse.const_data_ptr<float>();
  params.grad_q = attention_heads(grad_q);
  params.grad_k = attention_heads(grad_k);
  params.grad_v = attention_heads(grad_v);
  params.B = static_cast<int>(q.size(0));
  params.H = static_cast<int>(q.size(1));
  params.N = static_cast<int>(q.size(2));
  params.M = static_cast<int>(k.size(2));
  params.E = static_cast<int>(q.size(3));
  params.scale = static_cast<float>(scale);
  params.dtype = cuda::dtype_of(q);
  return params;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& q_in, const Tensor& k_in,
                                                 const Tensor& v_in, const Tensor& y_in, const Tensor& lse_in) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in), y = readable(y_in), grad = readable(grad_in),
             grad_q = by_token(q);
  const auto [grad_k, grad_v] = by_token(k_in, v_in);
  const auto lse = lse_in.contiguous();
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  launch_cross_attention_keys_backward(
      {params_of(grad, q, k, v, lse, grad_q, grad_k, grad_v, scale), attention_heads(y)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_q, grad_k, grad_v};
}

void queries_backward_cuda(const Tensor& grad_in, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                           const Tensor& lse, const Tensor& delta, const Tensor& grad_q, const Tensor& grad_k,
                           const Tensor& grad_v, double scale, const std::optional<Tensor>& lengths_in) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in), grad = readable(grad_in);
  const auto lengths = is_defined(lengths_in) ? lengths_in->contiguous() : Tensor();
  launch_cross_attention_queries_backward(
      {params_of(grad, q, k, v, lse, grad_q, grad_k, grad_v, scale), delta.const_data_ptr<float>(),
       lengths.defined() ? lengths.const_data_ptr<int>() : nullptr},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("cross_attention_forward", &forward_cuda);
  library.impl("cross_attention_backward", &backward_cuda);
  library.impl("cross_attention_queries_backward", &queries_backward_cuda);
}

}  // namespace memformer::ops
