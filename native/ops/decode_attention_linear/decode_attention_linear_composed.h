// A decoding step's attention and the product behind it, without its bias: exactly decode_attention, or
// decode_self_attention, and then decode_linear. On a GPU of compute capability 9.0 few rows are one kernel, which
// leaves the product in shares: whoever reads it adds them, to the same bits. Operators call these two by name, for
// their functions may be in the other shared object, as the functions of their own parts:
//   memformer::decode_attention_linear(q, keys, values, slots, lengths, bias, weight, settled)
// q, keys, values, slots, lengths, bias: as decode_attention's; weight (D, D) of q's dtype. Returns (R, D) of q's
// dtype, or in shares (ops/decode_linear: decode_add_shares), (R, 8, D) float32: where q is bfloat16 or float16, E 64
// and D 256 or 512, and there are at most 8 rows; MEMFORMER_DECODE_SHARED_ROWS sets how many, 0 turns it off. settled:
// all but q has been there since before the last kernel that was enqueued, so that a GPU may begin to read it while
// that one runs. Without gradient. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
//   memformer::decode_self_attention_linear(qkv, cos, sin, slots, positions, keys, values, weight, settled)
// The same behind decode_self_attention: qkv (R, 3 D), cos, sin, slots, positions, keys, values as its.
// Here they are as their parts one after the other, on a CPU and on a GPU, and what they ask of their own arguments.
// Letters: R rows, D width, S slots, T places of a slot, N keys, H heads, E = D / H.
#pragma once
#include "core/op_handle.h"
#include "core/tensor_checks.h"
#include "ops/decode_linear/decode_linear_ops.h"

namespace memformer::ops {

/// `rows`, called `name`, are queries, or queries, keys and values. Everything else is checked by the parts.
inline void check_decode_attention_linear(const char* op, const char* name, const at::Tensor& rows,
                                          const at::Tensor& keys, const at::Tensor& weight) {
  require_shape(op, "keys", keys, {-1, -1, -1, -1});
  const int64_t D = keys.size(1) * keys.size(3);
  require_shape(op, "weight", weight, {D, D});
  require_like(op, "weight", weight, name, rows);
}

/// What was read (R, D) times weight.
inline at::Tensor product_of_read(const at::Tensor& read, const at::Tensor& weight, bool settled) {
  return decode_linear_op(read, weight, {}, /*gelu=*/false, settled, {});
}

inline at::Tensor composed_attention_linear(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                                            const std::optional<at::Tensor>& slots,
                                            const std::optional<at::Tensor>& lengths,
                                            const std::optional<at::Tensor>& bias, const at::Tensor& weight,
                                            bool settled) {
  constexpr Registered<"memformer::decode_attention",
                       at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                  const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                  const std::optional<at::Tensor>&, bool)>
      attention;
  return product_of_read(attention(q, keys, values, slots, lengths, bias, settled), weight, settled);
}

inline at::Tensor composed_self_attention_linear(const at::Tensor& qkv, const std::optional<at::Tensor>& cos,
                                                 const std::optional<at::Tensor>& sin, const at::Tensor& slots,
                                                 const at::Tensor& positions, const at::Tensor& keys,
                                                 const at::Tensor& values, const at::Tensor& weight, bool settled) {
  constexpr Registered<"memformer::decode_self_attention",
                       at::Tensor(const at::Tensor&, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                  const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, bool)>
      attention;
  return product_of_read(attention(qkv, cos, sin, slots, positions, keys, values, settled), weight, settled);
}

}  // namespace memformer::ops
