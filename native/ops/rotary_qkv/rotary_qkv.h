// The step between a fused QKV projection and attention: add the projection's bias, split it in three, bring the heads
// forward, and rotate queries and keys by their position (rotary embedding, Su et al. 2021, half-split pairing), in one
// pass over memory.
//   (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)      x1, x2 the halves of a head, angles of position t
// Letters: B batch, T tokens, D width, H heads, E = D / H.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// qkv (B, T, 3 D) float32, float64 or bfloat16 (on a GPU also float16): Q, K, V, each `heads` chunks of width E, E
/// even; bias (3 D) in qkv's dtype or undefined, added without rounding; cos, sin (T, E / 2) float32 (float64 for
/// float64). Returns q, k, v, each (B, H, T, E): contiguous on the CPU, on CUDA views of one (B, T, 3, H, E).
/// Differentiable once in qkv and bias. With a sink, (3 D) float32 (float64 for float64), the backward pass adds the
/// bias's gradient to it and returns none. On a GPU the addition is deferred: do not read the sink before
/// synchronize_side_stream. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor, at::Tensor> rotary_qkv(const at::Tensor& qkv, const Trained& bias,
                                                          const at::Tensor& cos, const at::Tensor& sin, int64_t heads);

}  // namespace memformer::ops
