// The contract of attention's kernels over short segments: one block per head of a row, all of it in shared memory.
//   y = softmax(q k^T / sqrt(E), over the visible keys) v      with angles, q and k are rotated by their position first
// Before that, q and k are divided by their root mean square (ops/head_norm/head_norm.h) where that is asked for.
// Nothing is kept for backward, which computes the weights again.
// Letters: B batch, H heads, N queries, M keys, E width of a head.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

/// (B, H, rows, E) with these strides, in numbers; that of E is 1, the others and `data` are multiples of 16 bytes.
struct AttentionHeads {
  void* data;
  int64_t b, h, t;
};

struct AttentionParams {
  AttentionHeads q, k, v;  ///< read only
  const void* bias;        ///< (3, H, E), added to q, k, v; null: none
  const float* cos;        ///< (N, E / 2), contiguous; null: nothing is turned
  const float* sin;
  const bool* mask;  ///< (b, query, key) with these strides, that of keys 1: true where seen; null: all are
  int64_t mask_b, mask_query;
  const int* lengths;   ///< (B): keys of row b that are seen, its first; at least one is. null: all are
  AttentionHeads y;     ///< written by forward
  int B, H, N, M, E;    ///< N, M in 1 .. 128, E 32 or 64
  bool causal;          ///< keys after the query are not seen
  bool norm_q, norm_k;  ///< divided by their root mean square, with norm_eps in it
  float norm_eps;
  float scale;        ///< 1 / sqrt(E)
  cuda::Dtype dtype;  ///< bf16 or f16
};

struct AttentionBackwardParams {
  AttentionParams of;
  AttentionHeads grad;                    ///< dL/dy, read only
  AttentionHeads grad_q, grad_k, grad_v;  ///< of q, k, v as they were given
  float* partials;                        ///< (B, 3, H, E): sums of those over the tokens; null: not wanted
};

void launch_attention_forward(const AttentionParams& params, cudaStream_t stream);
void launch_attention_backward(const AttentionBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
