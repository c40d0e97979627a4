// Attention of few queries over many keys on a GPU, as a layer reads the memory: LibTorch's forward, and a backward
// kernel of ours. LibTorch's backward goes through the keys in blocks that each add to a float32 gradient of the
// queries in memory, with kernels before and after it.
// Letters: B batch, H heads, N queries, M keys, E width of a head.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// Whether backward's kernel takes q (B, H, N, E) and k (B, H, M, E): bfloat16 or float16, E 32 or 64, N at most 128
/// and M above, heads enough for the length, and shared memory enough.
bool cross_attention_fits(const at::Tensor& q, const at::Tensor& k);

/// Like attention without a mask, for inputs that fit. Keeps q, k, v, the result and one float32 number per query for
/// backward.
at::Tensor cross_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// For few keys and many queries, as the memory is written, there are operators, which others call
// (cross_attention.cuh):
//   cross_attention_queries_fits(q, k)             M at most 128, and otherwise as above
//   cross_attention_queries_backward(…, grad_q, grad_k, grad_v, scale, lengths)    adds to grad_q and writes grad_k and
//   grad_v, all of
//                                                 them views (B, H, rows, E) of multiples of 16 bytes; lse and delta
//                                                 (B, H, N) are contiguous; lengths (B) int32: keys of each row that
//                                                 are seen, or none: all are

}  // namespace memformer::ops
