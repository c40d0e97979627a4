// Scaled dot-product attention:  softmax(q k^T / sqrt(E)) v.
// Short segments are where LibTorch's fused kernels are slow: on a CPU they call a matrix product for every head of
// every row, so small that starting it costs more than it does; on a GPU they work in several kernels on what fits into
// one block. Here a CPU does each product in one call for all heads of all rows, and a GPU takes one block a head. What
// is longer goes to LibTorch's, but for the backward pass of few queries over many keys (long_attention.h).
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// q (B, H, N, E), k and v (B, H, M, E), all float32, float64 or bfloat16 (on a GPU also float16) alike, of any
/// strides. mask bool, true where query i may see key j, of shape (B or 1, 1, N or 1, M), or undefined: all may. Every
/// query must see a key. lengths (B) int32: row b's queries see its first lengths_b keys (at least one), or undefined:
/// all; it costs nothing beside no lengths where a GPU's kernel for short segments runs; not beside a mask. causal
/// (needs N = M): no query sees a key after it; a mask beside it must say so too. Returns (B, H, N, E), token by token
/// in memory, so that merging the heads is free. Differentiable once in q, k, v. Short segments hold the weights (B, H,
/// N, M) for backward, but on a GPU in bfloat16 and float16, with E 32 or 64 and N, M <= 128, nothing beside q, k, v.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::optional<at::Tensor>& mask, bool causal, const std::optional<at::Tensor>& lengths = {});

/// Whether the GPU's kernel for short segments takes N queries and M keys of E numbers, like `x`: E 32 or 64, N and M
/// at most 128, and shared memory enough (an Ampere or Ada GPU with 99 KiB a block takes E 64 up to 64 tokens).
bool attention_is_fused(const at::Tensor& x, int64_t N, int64_t M, int64_t E);

}  // namespace memformer::ops
