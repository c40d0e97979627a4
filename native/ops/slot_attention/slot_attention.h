// Slot attention, the core of the paper's memory writer: every slot attends to itself and to the tokens of the segment,
// never to another slot.
//   logits_i = [ q_i.k_i , q_i K^T ] scale        a_i = softmax(logits_i)        y_i = a_i0 own_i + a_i1.. V
// Letters: B batch, M slots, T tokens, D width, E = D / heads.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// query, self_key, own (B, M, D): one row per slot; key, value (B, T, D): one row per token; split into `heads` chunks
/// of width E. All of one dtype, float32, float64 or bfloat16 (on a GPU also float16), except `own`, which may be
/// float32 beside bfloat16 or float16: the memory stays wide where its projections are narrow. mask (B, T) bool, true
/// where a token is real, or undefined: all are. lengths (B) int32: each row's first lengths_b tokens are real, or
/// undefined: all are. lengths cost nothing where a GPU's kernels run; they exclude a mask. `scale` multiplies the
/// logits: 1 / (sqrt(E) tau). Returns (B, M, D) in own's dtype. A row without real tokens returns `own` exactly.
/// Differentiable once in all five; every gradient has its input's dtype.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor slot_attention(const at::Tensor& query, const at::Tensor& self_key, const at::Tensor& own,
                          const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask,
                          int64_t heads, double scale, const std::optional<at::Tensor>& lengths = {});

}  // namespace memformer::ops
