// Self-attention of one token a row over a cache: its key and value are written where its slot stands, then its query
// reads all that is written there. Slots are places of a preallocated cache; a step of any rows, each of another slot
// or several of one (a prompt), is the same two calls. Where they are is data: a GPU records a step once.
//   decode_append       keys[s, :, p] = rotate(k, p)      values[s, :, p] = v      q = rotate(q, p)
//   decode_attention    softmax(q k^T / sqrt(E) + bias) v over the first `length` keys of slot s
// Letters: R rows, S slots, T places of a slot, N keys, P positions, H heads, D width, E = D / H.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// qkv (R, 3 D) float32, float64 or bfloat16, on a GPU also float16: q, k, v of H heads, bias added. cos, sin (P, E /
/// 2) float32 (float64 of float64), the angles of every position, or undefined: no rotation. slots, positions (R)
/// int32: row r is written to keys and values (S, H, T, E), contiguous, of qkv's dtype, at [slots_r, :, positions_r]; a
/// GPU leaves out a row that lies outside, a CPU refuses it. Returns q (R, D). Without gradient. Throws SHAPE, DTYPE,
/// DEVICE_MISMATCH, CONFIG.
at::Tensor decode_append(const at::Tensor& qkv, const std::optional<at::Tensor>& cos,
                         const std::optional<at::Tensor>& sin, const at::Tensor& slots, const at::Tensor& positions,
                         const at::Tensor& keys, const at::Tensor& values);

/// q (R, D) of the caches' dtype; keys, values (S, H, N, E), rows of E contiguous, any other strides. slots (R) int32;
/// undefined: row r reads slot r. lengths (R) int32: row r reads its first lengths_r keys, at least one, at most N;
/// undefined: all. bias (R, H, N) float32 (float64 of float64), added to the scores, or undefined. Returns (R, D),
/// heads merged. A row's numbers do not depend on the rows beside it, to the bit. settled: all but q has been there
/// since before the last kernel that was enqueued, so that a GPU may begin to read it while that one runs. Without
/// gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const std::optional<at::Tensor>& slots, const std::optional<at::Tensor>& lengths,
                            const std::optional<at::Tensor>& bias, bool settled = false);

/// decode_append and then decode_attention over what is written there up to the row's own position, in one kernel of a
/// GPU's: arguments as theirs, no two rows of the same slot; settled: all but qkv has been there. Returns (R, D).
at::Tensor decode_self_attention(const at::Tensor& qkv, const std::optional<at::Tensor>& cos,
                                 const std::optional<at::Tensor>& sin, const at::Tensor& slots,
                                 const at::Tensor& positions, const at::Tensor& keys, const at::Tensor& values,
                                 bool settled = false);

/// Where the rows of a step stand. slots (R) int32; positions, context_lengths (S) int32: of every slot. Row r has
/// position positions[slots_r] + ahead_r (ahead (R) int32, undefined: 0), at most `last`; each row moves its slot's
/// position on by one, up to last + 1. Returns (3, R) int32: the rows' positions, these + 1, and their context_lengths.
at::Tensor decode_rows(const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& context_lengths,
                       const std::optional<at::Tensor>& ahead, int64_t last);

}  // namespace memformer::ops
