// The contract of attention's backward kernels with one short side, of 128 rows at most, and one of any length: a
// head's short side stays in a block and the long one streams past it, so that what is summed over the long side never
// leaves its registers.
//   p = exp(scale q k^T - lse)      dL/dv = p^T g      ds = p (g v^T - delta)      dL/dq = scale ds k      dL/dk =
//   scale ds^T q
// with g = dL/dy and delta = rowsum(g y). lse and delta may be of a softmax over more than these keys.
// Letters: B batch, H heads, N queries, M keys, E width of a head.
#pragma once
#include "ops/attention/attention.cuh"

namespace memformer::ops {

struct CrossAttentionParams {
  AttentionHeads q, k, v, grad;           ///< read only
  const float* lse;                       ///< (B, H, N): logarithms of the softmax's denominators
  AttentionHeads grad_q, grad_k, grad_v;  ///< written
  int B, H, N, M, E;                      ///< E 32 or 64
  float scale;
  cuda::Dtype dtype;  ///< bf16 or f16
};

/// N at most 128.
struct CrossAttentionKeysParams {
  CrossAttentionParams of;
  AttentionHeads y;  ///< read only
};

/// M at most 128. grad_q is added to what it holds.
struct CrossAttentionQueriesParams {
  CrossAttentionParams of;
  const float* delta;  ///< (B, H, N)
  const int*
      lengths;  ///< (B): keys of row b that are seen, its first, 0 to M; the gradients of others are 0. null: all are
};

void launch_cross_attention_keys_backward(const CrossAttentionKeysParams& params, cudaStream_t stream);
void launch_cross_attention_queries_backward(const CrossAttentionQueriesParams& params, cudaStream_t stream);

}  // namespace memformer::ops
