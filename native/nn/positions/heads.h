// Shared by the position schemes that compute their softmax explicitly: splitting and merging heads, and the mask.
// Letters: B batch, T tokens, H heads, E width of a head.
#pragma once
#include "core/torch.h"
#include "nn/key_mask.h"
#include "ops/common/packed_qkv.h"

namespace memformer::nn {

struct Heads {
  at::Tensor q, k, v;  // (B, H, T, E)
};

inline Heads split_heads(const at::Tensor& qkv, int64_t H) {
  return {part_of(qkv, 0, H), part_of(qkv, 1, H), part_of(qkv, 2, H)};
}

inline at::Tensor merge(const at::Tensor& heads) {
  const int64_t B = heads.size(0), H = heads.size(1), T = heads.size(2), E = heads.size(3);
  return heads.transpose(1, 2).reshape({B, T, H * E});
}

/// Hides from `scores` (B, H, T, T) what a query may not see.
inline at::Tensor masked(const at::Tensor& scores, const KeyMask& mask, bool causal) {
  const auto hidden = -std::numeric_limits<double>::infinity();
  const int64_t T = scores.size(3);
  if (const auto seen = mask.attention(causal)) return scores.masked_fill(seen->logical_not(), hidden);
  if (const auto lengths = mask.lengths(causal))
    return scores.masked_fill(first_tokens(lengths->clamp_min(1), T).logical_not().view({-1, 1, 1, T}), hidden);
  if (!causal) return scores;
  return scores.masked_fill(at::ones({T, T}, scores.options().dtype(at::kBool)).triu(1), hidden);
}

}  // namespace memformer::nn
