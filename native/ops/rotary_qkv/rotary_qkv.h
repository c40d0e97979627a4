// The step between a fused QKV projection and attention: add the projection's bias, split in three, bring the heads
// forward, turn queries and keys by their position (rotary embedding, Su et al. 2021, half-split pairing), in one pass
// over memory.
//   (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)      x1, x2 the halves of a head, angles of position t
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// qkv (B, T, 3 D) float32, float64 or bfloat16: Q, K, V, each `heads` chunks of E = D / heads, E even; bias (3 D) of
/// qkv's dtype or undefined, added without a rounding; cos, sin (T, E / 2) in float32 (float64 for float64). Returns q,
/// k, v, each (B, H, T, E): contiguous on the CPU, on CUDA views of one (B, T, 3, H, E). Differentiable once in qkv and
/// bias; to bias_sink, (3 D) float32 (float64 for float64), the gradient of the bias is added in the backward pass, and
/// nothing is sent back. On a GPU that addition is put off: nobody may read the sink before linear_join. Throws SHAPE,
/// DTYPE, DEVICE_MISMATCH, CONFIG.
std::tuple<at::Tensor, at::Tensor, at::Tensor> rotary_qkv(const at::Tensor& qkv, const std::optional<at::Tensor>& bias,
                                                          const std::optional<at::Tensor>& bias_sink,
                                                          const at::Tensor& cos, const at::Tensor& sin, int64_t heads);

}  // namespace memformer::ops
