// The contract of slot_attention's kernels: what a slot has with itself, beside attention over the tokens. For every
// slot and head, E = D / H numbers, E a multiple of 8 up to 256:
//   s0 = scale q.k_self      lse = log(exp(s0) + exp(token_lse))      a0 = exp(s0 - lse)      y = a0 own + (1 - a0)
//   y_tokens
// (B, M, D) tensors are contiguous and begin at multiples of 16 bytes; those said to be narrow have `narrow`, the
// others `dtype`: float32 or the same as `narrow`, which is bfloat16 or float16.
// Letters: B batch, M slots, D width, H heads, E = D / H.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct SlotSizes {
  int64_t B, M;
  int H, E;
};

struct SlotMixParams {
  const void* query;       ///< (B, M, D) narrow
  const void* self_key;    ///< (B, M, D) narrow
  const void* own;         ///< (B, M, D)
  const void* y_tokens;    ///< (B, M, D) narrow
  const float* token_lse;  ///< (b, h, m) with these strides, that of slots 1
  int64_t lse_b, lse_h;
  const int*
      lengths;  ///< (B), tokens of each row; where there are none, a slot keeps its own. null: all rows have some
  void* y;      ///< (B, M, D)
  float* lse;   ///< (B, H, M)
  SlotSizes size;
  float scale;
  cuda::Dtype narrow, dtype;
};

/// With g = dL/dy:  dL/ds0 = a0 (g.own - g.y)  goes to query and k_self,  dL/down = a0 g.
struct SlotSelfBackwardParams {
  const void* grad;      ///< (B, M, D)
  const void* y;         ///< (B, M, D)
  const void* query;     ///< (B, M, D) narrow
  const void* self_key;  ///< (B, M, D) narrow
  const void* own;       ///< (B, M, D)
  const float* lse;      ///< (B, H, M)
  void* grad_query;      ///< (B, M, D) narrow: the share of s0
  void* grad_self_key;   ///< (B, M, D) narrow
  void* grad_own;        ///< (B, M, D)
  void* narrow_grad;     ///< (B, M, D) narrow: a copy of grad; null: not wanted
  void* narrow_y;        ///< (B, M, D) narrow: a copy of y; null: not wanted
  float* delta;          ///< (B, H, M): g.y of each head, g as in narrow_grad; null: not wanted
  SlotSizes size;
  float scale;
  cuda::Dtype narrow, dtype;
};

void launch_slot_mix(const SlotMixParams& params, cudaStream_t stream);
void launch_slot_self_backward(const SlotSelfBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
