// Self-attention from a fused QKV projection to the merged heads: add the projection's bias, rotate queries and keys by
// their position (rotary_qkv), attend (attention). On a GPU, short segments take one kernel each way: neither the
// rotated heads nor their gradients are ever written.
// Letters: B batch, T tokens, D width, H heads, E = D / H.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// qkv (B, T, 3 D), bias (3 D) or undefined, cos, sin (T, E / 2), heads: as rotary_qkv; mask, causal and lengths: as
/// attention. Returns (B, T, D). Differentiable once in qkv and bias. With a sink, (3 D) float32 (float64 for
/// float64), the backward pass adds the bias's gradient to it and returns none; on a GPU the addition is deferred as in
/// rotary_qkv. norm: with its bias, every query and key is divided by its root mean square (head_norm.h) before it is
/// rotated, which costs nothing where attention_is_fused.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor rotary_attention(const at::Tensor& qkv, const Trained& bias, const at::Tensor& cos, const at::Tensor& sin,
                            const std::optional<at::Tensor>& mask, bool causal, int64_t heads,
                            const std::optional<at::Tensor>& lengths = {}, bool norm = false);

}  // namespace memformer::ops
