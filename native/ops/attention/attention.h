// Scaled dot-product attention:  softmax(q k^T / sqrt(E)) v.
// Letters: B batch, H heads, N queries, M keys, E width of a head.
// LibTorch's fused kernels are slow on short segments. On a CPU they call a matrix product for every head of every row,
// which takes longer to start than to compute; on a GPU they run several kernels on what fits into one block. Here a
// CPU does each product in one call for all heads of all rows, and a GPU uses one block per head. Longer segments go to
// LibTorch's kernels, except for the backward pass of few queries over many keys (cross_attention.h).
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// q (B, H, N, E), k and v (B, H, M, E), all of one dtype: float32, float64 or bfloat16 (on a GPU also float16), with
/// any strides. mask bool, true where query i may see key j, of shape (B or 1, 1, N or 1, M), or undefined: all may.
/// Every query must see a key. lengths (B) int32: row b's queries see its first lengths_b keys (at least one), or
/// undefined: all. lengths cost nothing where a GPU's kernel for short segments runs; they exclude a mask. causal
/// (needs N = M): no query sees a later key; a mask beside it must say so too. Returns (B, H, N, E), token by token in
/// memory, so that merging the heads is free. Differentiable once in q, k, v. Short segments keep the weights (B, H, N,
/// M) for backward; on a GPU in bfloat16 and float16, with E 32 or 64 and N, M <= 128, they keep q, k, v alone.
/// norm_queries, norm_keys: every query, every key is divided by its root mean square first (head_norm.h), which costs
/// nothing where attention_is_fused.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::optional<at::Tensor>& mask, bool causal, const std::optional<at::Tensor>& lengths = {},
                     bool norm_queries = false, bool norm_keys = false);

/// Whether the GPU's kernel for short segments takes N queries and M keys with heads of width E, like `x`: E 32 or 64,
/// N and M at most 128, and enough shared memory (an Ampere or Ada GPU with 99 KiB per block takes E 64 up to 64
/// tokens).
bool attention_is_fused(const at::Tensor& x, int64_t N, int64_t M, int64_t E);

}  // namespace memformer::ops
