// Slot attention composed of LibTorch's operators, for every device, dtype and mask. Header only: it is the CPU kernel,
// and the CUDA library, a separate shared object, falls back to it where its kernels do not fit. Derivation:
// slot_attention.cpp.
// Letters: B batch, M slots, T tokens, N slots or tokens, H heads, D width, E = D / H.
#pragma once
#include <limits>

#include "core/gradient_sink.h"
#include "core/tensor_checks.h"
#include "core/torch.h"

namespace memformer::ops::slot_attention_composed {

using at::Tensor;
using Optional = std::optional<Tensor>;

/// (B, N, D) -> (B H, N, E) in the accumulation dtype.
inline Tensor split_heads(const Tensor& x, int64_t heads) {
  const int64_t B = x.size(0), N = x.size(1), E = x.size(2) / heads;
  return x.to(accumulate_type(x.scalar_type())).view({B, N, heads, E}).transpose(1, 2).reshape({B * heads, N, E});
}

/// (B H, N, E) -> (B, N, D) in `dtype`.
inline Tensor merge_heads(const Tensor& x, int64_t heads, at::ScalarType dtype) {
  const int64_t B = x.size(0) / heads, N = x.size(1), E = x.size(2);
  return x.view({B, heads, N, E}).transpose(1, 2).reshape({B, N, heads * E}).to(dtype);
}

/// Logits over the tokens, (B H, M, T); padding is -inf.
inline Tensor token_logits(const Tensor& q, const Tensor& k, const Optional& mask, const Optional& lengths,
                           int64_t heads, double scale) {
  auto logits = at::bmm(q, k.transpose(1, 2)).mul_(scale);
  const int64_t B = q.size(0) / heads, T = k.size(1);
  const auto real = is_defined(lengths) ? first_tokens(*lengths, T) : is_defined(mask) ? *mask : Tensor();
  if (real.defined())
    logits.view({B, heads, q.size(1), T})
        .masked_fill_(real.logical_not().view({B, 1, 1, T}), -std::numeric_limits<double>::infinity());
  return logits;
}

inline std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& self_key, const Tensor& own,
                                          const Tensor& key, const Tensor& value, const Optional& mask, int64_t heads,
                                          double scale, const Optional& lengths) {
  const auto q = split_heads(query, heads), k = split_heads(key, heads), v = split_heads(value, heads),
             o = split_heads(own, heads);
  const auto self_logit = (q * split_heads(self_key, heads)).sum(-1).mul_(scale);  // (B H, M)
  auto weights = token_logits(q, k, mask, lengths, heads, scale);                  // (B H, M, T)
  const auto lse = key.size(1) == 0 ? self_logit.clone() : at::logaddexp(at::logsumexp(weights, -1), self_logit);
  weights.sub_(lse.unsqueeze(-1)).exp_();
  const auto self_weight = (self_logit - lse).exp_();
  auto y = at::bmm(weights, v).addcmul_(self_weight.unsqueeze(-1), o);
  return {merge_heads(y, heads, own.scalar_type()), lse.view({query.size(0), heads, query.size(1)})};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& query,
                                                                   const Tensor& self_key, const Tensor& own,
                                                                   const Tensor& key, const Tensor& value,
                                                                   const Optional& mask, const Tensor& y,
                                                                   const Tensor& lse_bhm, int64_t heads, double scale,
                                                                   const Optional& lengths) {
  const auto dtype = query.scalar_type();
  const auto q = split_heads(query, heads), ks = split_heads(self_key, heads), k = split_heads(key, heads);
  const auto v = split_heads(value, heads), o = split_heads(own, heads), g = split_heads(grad, heads);
  const auto lse = lse_bhm.reshape({q.size(0), q.size(1), 1});
  const auto c = (g * split_heads(y, heads)).sum(-1, true);                               // (B H, M, 1)
  const auto self_weight = ((q * ks).sum(-1, true) * scale - lse).exp_();                 // (B H, M, 1)
  const auto weights = token_logits(q, k, mask, lengths, heads, scale).sub_(lse).exp_();  // (B H, M, T)
  const auto grad_value = at::bmm(weights.transpose(1, 2), g);
  const auto grad_logit = at::bmm(g, v.transpose(1, 2)).sub_(c).mul_(weights).mul_(scale);  // (B H, M, T)
  const auto grad_self_logit = ((g * o).sum(-1, true) - c).mul_(self_weight).mul_(scale);   // (B H, M, 1)
  const auto grad_query = at::bmm(grad_logit, k).addcmul_(grad_self_logit, ks);
  const auto grad_key = at::bmm(grad_logit.transpose(1, 2), q);
  return {merge_heads(grad_query, heads, dtype), merge_heads(grad_self_logit * q, heads, dtype),
          merge_heads(self_weight * g, heads, own.scalar_type()), merge_heads(grad_key, heads, dtype),
          merge_heads(grad_value, heads, dtype)};
}

}  // namespace memformer::ops::slot_attention_composed
