// What decode_append and decode_attention ask of their arguments, on a CPU and on a GPU.
#pragma once
#include "core/gradient_sink.h"
#include "core/tensor_checks.h"

namespace memformer::ops {

inline void require_rows(const char* op, const char* name, const at::Tensor& tensor, int64_t R, const at::Tensor& like,
                         const char* like_name) {
  require_shape(op, name, tensor, {R});
  require_dtype(op, name, tensor, at::kInt);
  require(tensor.device() == like.device(), "DEVICE_MISMATCH", op, ": ", name, " must be on ", like_name, "'s device ",
          like.device().str(), ", got ", tensor.device().str());
}

inline void check_decode_append(const at::Tensor& qkv, const std::optional<at::Tensor>& cos,
                                const std::optional<at::Tensor>& sin, const at::Tensor& slots,
                                const at::Tensor& positions, const at::Tensor& keys, const at::Tensor& values) {
  constexpr const char* op = "decode_append";
  require_floating(op, "qkv", qkv);
  require_shape(op, "qkv", qkv, {-1, -1});
  require_shape(op, "keys", keys, {-1, -1, -1, -1});
  const int64_t R = qkv.size(0), H = keys.size(1), E = keys.size(3);
  require(qkv.size(1) == 3 * H * E && H * E > 0, "SHAPE", op, ": qkv must have shape (any, ", 3 * H * E,
          "), three times the keys' ", H, " heads of ", E, ", got ", qkv.sizes());
  require_shape(op, "values", values, {keys.size(0), H, keys.size(2), E});
  require_like(op, "keys", keys, "qkv", qkv);
  require_like(op, "values", values, "qkv", qkv);
  require(keys.is_contiguous() && values.is_contiguous(), "SHAPE", op, ": keys and values must be contiguous");
  require_rows(op, "slots", slots, R, qkv, "qkv");
  require_rows(op, "positions", positions, R, qkv, "qkv");
  require(is_defined(cos) == is_defined(sin), "CONFIG", op, ": cos and sin come together");
  if (!is_defined(cos)) return;
  require(E % 2 == 0, "CONFIG", op, ": a rotation needs an even number of numbers a head, got ", E);
  const auto angles = [&](const char* name, const at::Tensor& table) {
    require_shape(op, name, table, {-1, E / 2});
    require(table.size(0) >= keys.size(2), "SHAPE", op, ": ", name, " must hold the angles of ", keys.size(2),
            " positions, got ", table.size(0));
    require_dtype(op, name, table, accumulate_type(qkv.scalar_type()));
    require(table.device() == qkv.device(), "DEVICE_MISMATCH", op, ": ", name, " must be on qkv's device ",
            qkv.device().str(), ", got ", table.device().str());
  };
  angles("cos", *cos);
  angles("sin", *sin);
}

inline void check_decode_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                                   const std::optional<at::Tensor>& slots, const std::optional<at::Tensor>& lengths,
                                   const std::optional<at::Tensor>& bias) {
  constexpr const char* op = "decode_attention";
  require_floating(op, "q", q);
  require_shape(op, "keys", keys, {-1, -1, -1, -1});
  const int64_t S = keys.size(0), H = keys.size(1), N = keys.size(2), E = keys.size(3);
  require_shape(op, "q", q, {-1, H * E});
  require_shape(op, "values", values, {S, H, N, E});
  require_like(op, "keys", keys, "q", q);
  require_like(op, "values", values, "q", q);
  require(N > 0 && H * E > 0, "SHAPE", op, ": keys must hold at least one key, got ", keys.sizes());
  const int64_t R = q.size(0);
  if (is_defined(slots))
    require_rows(op, "slots", *slots, R, q, "q");
  else
    require(S == R, "SHAPE", op, ": without slots keys must have q's ", R, " rows, got ", keys.sizes());
  if (is_defined(lengths)) require_rows(op, "lengths", *lengths, R, q, "q");
  if (!is_defined(bias)) return;
  require_shape(op, "bias", *bias, {R, H, N});
  require_dtype(op, "bias", *bias, accumulate_type(q.scalar_type()));
  require(bias->device() == q.device(), "DEVICE_MISMATCH", op, ": bias must be on q's device ", q.device().str(),
          ", got ", bias->device().str());
}

inline void check_decode_rows(const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& context_lengths,
                              const std::optional<at::Tensor>& ahead) {
  constexpr const char* op = "decode_rows";
  require_shape(op, "slots", slots, {-1});
  require_shape(op, "positions", positions, {-1});
  require_dtype(op, "slots", slots, at::kInt);
  require_dtype(op, "positions", positions, at::kInt);
  require(positions.is_contiguous(), "SHAPE", op, ": positions must be contiguous");
  require(positions.device() == slots.device(), "DEVICE_MISMATCH", op, ": positions must be on slots' device ",
          slots.device().str(), ", got ", positions.device().str());
  require_rows(op, "context_lengths", context_lengths, positions.size(0), slots, "slots");
  if (is_defined(ahead)) require_rows(op, "ahead", *ahead, slots.size(0), slots, "slots");
}

}  // namespace memformer::ops
