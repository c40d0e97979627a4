// A decoding step's attention and the product behind it, without its bias: exactly decode_attention, or
// decode_self_attention, and then decode_linear. On a GPU of compute capability 9.0 few rows are one kernel, which
// leaves the product in shares: whoever reads it adds them, to the same bits. Letters: R rows, D width, S slots, T
// places of a slot, N keys, H heads, E = D / H.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// q, keys, values, slots, lengths, bias: as decode_attention's; weight (D, D) of q's dtype. Returns (R, D) of q's
/// dtype, or in shares (ops/decode_linear: decode_add_shares), (R, 8, D) float32: where q is bfloat16 or float16, E 64
/// and D 256 or 512, and there are at most 8 rows; MEMFORMER_DECODE_SHARED_ROWS sets how many, 0 turns it off. settled:
/// all but q has been there since before the last kernel that was enqueued, so that a GPU may begin to read it while
/// that one runs. Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor decode_attention_linear(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                                   const std::optional<at::Tensor>& slots, const std::optional<at::Tensor>& lengths,
                                   const std::optional<at::Tensor>& bias, const at::Tensor& weight,
                                   bool settled = false);

/// The same behind decode_self_attention: qkv (R, 3 D), cos, sin, slots, positions, keys, values as its.
at::Tensor decode_self_attention_linear(const at::Tensor& qkv, const std::optional<at::Tensor>& cos,
                                        const std::optional<at::Tensor>& sin, const at::Tensor& slots,
                                        const at::Tensor& positions, const at::Tensor& keys, const at::Tensor& values,
                                        const at::Tensor& weight, bool settled = false);

}  // namespace memformer::ops
