// An attention layer of a decoding step, from the residual stream to its branch without bias: norm, projection,
// attention and the product behind it,
//   branch' = attention(project(norm(x + branch)), keys, values) W^T
// Exactly decode_normed_linear, decode_attention or decode_self_attention, and decode_linear. On a GPU of compute
// capability 9.0 up to 4 rows are one kernel, to the same bits. Letters: R rows, D width, S slots, T places of a slot,
// N keys, H heads, E = D / H.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., D), of R rows, branch, branch_bias, norm_weight, norm_bias: as decode_normed_linear's; query_weight (D, D)
/// and query_bias (D) or undefined; keys, values, slots, lengths: as decode_attention's; weight (D, D) of
/// query_weight's dtype, also narrower than x. norm_heads: every head's query is divided by its root mean square, as
/// head_norm does it (ops/head_norm). Returns the stream x + branch + branch_bias in x's dtype, x itself
/// without a branch, and the next branch: (R, D) in the weights' dtype, or in shares (ops/decode_linear:
/// decode_add_shares), (R, 8, D) float32: where weights and branch are bfloat16 or float16 and x is float32, E 64 and D
/// 256 or 512, and there are at most 8 rows; MEMFORMER_DECODE_SHARED_ROWS sets how many, 0 turns it off. settled: all
/// but x and branch has been there since before the last kernel that was enqueued, so that a GPU may begin to read it
/// while that one runs. Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor> decode_attention_layer(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const std::optional<at::Tensor>& branch_bias,
    const at::Tensor& norm_weight, const at::Tensor& norm_bias, const at::Tensor& query_weight,
    const std::optional<at::Tensor>& query_bias, const at::Tensor& keys, const at::Tensor& values,
    const std::optional<at::Tensor>& slots, const std::optional<at::Tensor>& lengths, const at::Tensor& weight,
    bool norm_heads = false, bool settled = false);

/// The same with decode_self_attention: qkv_weight (3 D, D), qkv_bias (3 D) or undefined; cos, sin, slots, positions,
/// keys, values as its. norm_heads: query and key, before they are turned.
std::tuple<at::Tensor, at::Tensor> decode_self_attention_layer(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const std::optional<at::Tensor>& branch_bias,
    const at::Tensor& norm_weight, const at::Tensor& norm_bias, const at::Tensor& qkv_weight,
    const std::optional<at::Tensor>& qkv_bias, const std::optional<at::Tensor>& cos,
    const std::optional<at::Tensor>& sin, const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& keys,
    const at::Tensor& values, const at::Tensor& weight, bool norm_heads = false, bool settled = false);

}  // namespace memformer::ops
