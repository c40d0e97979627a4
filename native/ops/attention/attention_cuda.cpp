#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/packed.h"
#include "core/cuda/pending_sums.h"
#include "core/gradient_sink.h"
#include "ops/attention/attention.cuh"
#include "ops/attention/attention.h"
#include "ops/attention/attention_heads.h"
#include "ops/attention/split_attention.cuh"
#include "ops/common/head_norm_eps.h"
#include "ops/common/packed_qkv.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using cuda::packed;

/// All but y. The tensors have to outlive the launch.
AttentionParams params_of(const Tensor& q, const Tensor& k, const Tensor& v, const Optional& mask, bool causal,
                          const Optional& lengths) {
  AttentionParams params{};
  params.q = attention_heads(q);
  params.k = attention_heads(k);
  params.v = attention_heads(v);
  if (is_defined(mask)) {
    params.mask = mask->const_data_ptr<bool>();
    params.mask_b = mask->size(0) == 1 ? 0 : mask->stride(0);
    params.mask_query = mask->size(2) == 1 ? 0 : mask->stride(2);
  }
  if (is_defined(lengths)) params.lengths = lengths->const_data_ptr<int>();
  params.B = static_cast<int>(q.size(0));
  params.H = static_cast<int>(q.size(1));
  params.N = static_cast<int>(q.size(2));
  params.M = static_cast<int>(k.size(2));
  params.E = static_cast<int>(q.size(3));
  params.causal = causal;
  params.norm_eps = static_cast<float>(kHeadNormEps);
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3))));
  params.dtype = cuda::dtype_of(q);
  return params;
}

Optional contiguous(const Optional& x) { return is_defined(x) ? Optional(x->contiguous()) : std::nullopt; }

Tensor forward_cuda(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Optional& mask_in, bool causal,
                    const Optional& lengths_in, bool norm_queries, bool norm_keys) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in), y = by_token(q);
  const auto mask = contiguous(mask_in), lengths = contiguous(lengths_in);
  auto params = params_of(q, k, v, mask, causal, lengths);
  params.norm_q = norm_queries;
  params.norm_k = norm_keys;
  params.y = attention_heads(y);
  launch_attention_forward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor split_cuda(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in), y = by_token(q);
  auto params = params_of(q, k, v, {}, /*causal=*/false, {});
  params.y = attention_heads(y);
  if (!fits_split_attention(params)) return at::scaled_dot_product_attention(q_in, k_in, v_in);
  launch_split_attention(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& q_in, const Tensor& k_in,
                                                 const Tensor& v_in, const Optional& mask_in, bool causal,
                                                 const Optional& lengths_in, bool norm_queries, bool norm_keys) {
  const c10::cuda::CUDAGuard device(q_in.device());
  const auto q = readable(q_in), k = readable(k_in), v = readable(v_in), grad = readable(grad_in);
  const auto grad_q = by_token(q);
  const auto [grad_k, grad_v] = by_token(k_in, v_in);
  const auto mask = contiguous(mask_in), lengths = contiguous(lengths_in);
  auto params = params_of(q, k, v, mask, causal, lengths);
  params.norm_q = norm_queries;
  params.norm_k = norm_keys;
  launch_attention_backward({params, attention_heads(grad), attention_heads(grad_q), attention_heads(grad_k),
                             attention_heads(grad_v), nullptr},
                            c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_q, grad_k, grad_v};
}

/// Of the three parts of qkv (B, T, 3 D).
AttentionParams rotary_params_of(const Tensor& qkv, const Tensor& bias, const Tensor& cos, const Tensor& sin,
                                 const Optional& mask, bool causal, int64_t heads, const Optional& lengths, bool norm) {
  auto params =
      params_of(part_of(qkv, 0, heads), part_of(qkv, 1, heads), part_of(qkv, 2, heads), mask, causal, lengths);
  params.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  params.cos = cos.const_data_ptr<float>();
  params.sin = sin.const_data_ptr<float>();
  params.norm_q = params.norm_k = norm;
  return params;
}

Tensor rotary_forward_cuda(const Tensor& qkv_in, const Optional& bias_in, const Tensor& cos_in, const Tensor& sin_in,
                           const Optional& mask_in, bool causal, int64_t heads, const Optional& lengths_in, bool norm) {
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const auto qkv = packed(qkv_in), cos = packed(cos_in), sin = packed(sin_in),
             bias = is_defined(bias_in) ? packed(*bias_in) : Tensor();
  const auto mask = contiguous(mask_in), lengths = contiguous(lengths_in);
  const auto y = at::empty({qkv.size(0), qkv.size(1), qkv.size(2) / 3}, qkv.options());
  auto params = rotary_params_of(qkv, bias, cos, sin, mask, causal, heads, lengths, norm);
  params.y = attention_heads(y.view({y.size(0), y.size(1), heads, y.size(2) / heads}).transpose(1, 2));
  launch_attention_forward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensor, Tensor> rotary_backward_cuda(const Tensor& grad_in, const Tensor& qkv_in, const Optional& bias_in,
                                                const Optional& bias_sink, const Tensor& cos_in, const Tensor& sin_in,
                                                const Optional& mask_in, bool causal, int64_t heads,
                                                const Optional& lengths_in, bool norm) {
  const c10::cuda::CUDAGuard device(qkv_in.device());
  const bool with_bias = is_defined(bias_in);
  const auto grad = packed(grad_in), qkv = packed(qkv_in), cos = packed(cos_in), sin = packed(sin_in);
  const auto bias = with_bias ? packed(*bias_in) : Tensor();
  const auto mask = contiguous(mask_in), lengths = contiguous(lengths_in);
  const int64_t B = qkv.size(0), T = qkv.size(1), width = qkv.size(2);
  const auto grad_qkv = at::empty_like(qkv);
  AttentionBackwardParams params{};
  params.of = rotary_params_of(qkv, bias, cos, sin, mask, causal, heads, lengths, norm);
  params.grad = attention_heads(grad.view({B, T, heads, width / (3 * heads)}).transpose(1, 2));
  params.grad_q = attention_heads(part_of(grad_qkv, 0, heads));
  params.grad_k = attention_heads(part_of(grad_qkv, 1, heads));
  params.grad_v = attention_heads(part_of(grad_qkv, 2, heads));
  const cuda::ColumnGradient of_bias(bias_sink, with_bias, B, width, cos.options());
  const auto partials = with_bias ? at::empty({B, 1, width}, cos.options()) : Tensor();
  params.partials = with_bias ? partials.mutable_data_ptr<float>() : nullptr;
  launch_attention_backward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (with_bias && B > 0) cuda::sum_columns(partials, {&of_bias});
  return {grad_qkv, of_bias.result(qkv.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("attention_fused", &forward_cuda);
  library.impl("attention_fused_backward", &backward_cuda);
  library.impl("attention_split", &split_cuda);
  library.impl("rotary_attention_forward", &rotary_forward_cuda);
  library.impl("rotary_attention_backward", &rotary_backward_cuda);
}

}  // namespace memformer::ops
