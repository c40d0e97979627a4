#include "ops/decode_attention/decode_attention.h"

#include "core/op_handle.h"
#include "ops/common/lanes.h"
#include "ops/decode_attention/decode_attention_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

template <typename scalar_t>
void turn(const scalar_t* x, scalar_t* y, const sum_t<scalar_t>* cos, const sum_t<scalar_t>* sin, int64_t half) {
  using acc_t = sum_t<scalar_t>;
#pragma omp simd
  for (int64_t e = 0; e < half; ++e) {
    const acc_t x1 = static_cast<acc_t>(x[e]), x2 = static_cast<acc_t>(x[e + half]);
    y[e] = static_cast<scalar_t>(x1 * cos[e] - x2 * sin[e]);
    y[e + half] = static_cast<scalar_t>(x2 * cos[e] + x1 * sin[e]);
  }
}

Tensor append_cpu(const Tensor& qkv_in, const Optional& cos_in, const Optional& sin_in, const Tensor& slots_in,
                  const Tensor& positions_in, const Tensor& keys, const Tensor& values) {
  check_decode_append(qkv_in, cos_in, sin_in, slots_in, positions_in, keys, values);
  const auto qkv = qkv_in.contiguous(), slots = slots_in.contiguous(), positions = positions_in.contiguous();
  const auto cos = is_defined(cos_in) ? cos_in->contiguous() : Tensor(),
             sin = is_defined(sin_in) ? sin_in->contiguous() : Tensor();
  const int64_t R = qkv.size(0), S = keys.size(0), H = keys.size(1), T = keys.size(2), E = keys.size(3), half = E / 2;
  auto q = at::empty({R, H * E}, qkv.options());
  const auto *slot = slots.const_data_ptr<int32_t>(), *position = positions.const_data_ptr<int32_t>();
  for (int64_t r = 0; r < R; ++r)
    require(slot[r] >= 0 && slot[r] < S && position[r] >= 0 && position[r] < T, "CONFIG", "decode_append: row ", r,
            " is to be written at position ", position[r], " of slot ", slot[r], "; there are ", S, " slots of ", T);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, qkv.scalar_type(), "decode_append", [&] {
    using acc_t = sum_t<scalar_t>;
    const auto* from = qkv.const_data_ptr<scalar_t>();
    const auto* c = cos.defined() ? cos.const_data_ptr<acc_t>() : nullptr;
    const auto* s = sin.defined() ? sin.const_data_ptr<acc_t>() : nullptr;
    auto *to_q = q.mutable_data_ptr<scalar_t>(), *to_k = keys.mutable_data_ptr<scalar_t>(),
         *to_v = values.mutable_data_ptr<scalar_t>();
    for (int64_t r = 0; r < R; ++r)
      for (int64_t h = 0; h < H; ++h) {
        const auto* of_q = from + (r * 3 * H + h) * E;
        const auto *of_k = of_q + H * E, *of_v = of_k + H * E;
        const int64_t place = ((slot[r] * H + h) * T + position[r]) * E, angle = position[r] * half;
        if (c != nullptr) {
          turn(of_q, to_q + (r * H + h) * E, c + angle, s + angle, half);
          turn(of_k, to_k + place, c + angle, s + angle, half);
        } else {
          std::copy_n(of_q, E, to_q + (r * H + h) * E);
          std::copy_n(of_k, E, to_k + place);
        }
        std::copy_n(of_v, E, to_v + place);
      }
  });
  return q;
}

/// One head's query over n keys: scores and then weights in `weights` (n), the result in `sums` (E).
template <typename scalar_t>
void attend(const sum_t<scalar_t>* q, const scalar_t* keys, int64_t key_stride, const scalar_t* values,
            int64_t value_stride, const sum_t<scalar_t>* bias, int64_t n, int64_t E, sum_t<scalar_t>* weights,
            sum_t<scalar_t>* sums) {
  using acc_t = sum_t<scalar_t>;
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) dot_products<1, 4>(q, E, keys + j * key_stride, key_stride, E, weights + j, 4);
  for (; j < n; ++j) dot_products<1, 1>(q, E, keys + j * key_stride, key_stride, E, weights + j, 1);
  const acc_t scale = acc_t(1) / std::sqrt(static_cast<acc_t>(E));
  acc_t most = -std::numeric_limits<acc_t>::infinity();
  for (j = 0; j < n; ++j) {
    weights[j] = weights[j] * scale + (bias == nullptr ? acc_t(0) : bias[j]);
    most = std::max(most, weights[j]);
  }
  acc_t total = 0;
  for (j = 0; j < n; ++j) total += weights[j] = std::exp(weights[j] - most);
  std::fill_n(sums, E, acc_t(0));
  for (j = 0; j < n; ++j) {
    const acc_t weight = weights[j];
    const auto* value = values + j * value_stride;
#pragma omp simd
    for (int64_t e = 0; e < E; ++e) sums[e] += weight * static_cast<acc_t>(value[e]);
  }
  const acc_t by = acc_t(1) / total;
  for (int64_t e = 0; e < E; ++e) sums[e] *= by;
}

/// decode_attention, of lengths that are `more` than they say.
Tensor attended(const Tensor& q_in, const Tensor& keys_in, const Tensor& values_in, const Optional& slots_in,
                const Optional& lengths_in, int32_t more, const Optional& bias_in) {
  check_decode_attention(q_in, keys_in, values_in, slots_in, lengths_in, bias_in);
  const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const auto keys = rows(keys_in), values = rows(values_in);
  const auto q = q_in.to(accumulate_type(q_in.scalar_type())).contiguous();
  const auto slots = is_defined(slots_in) ? slots_in->contiguous() : Tensor();
  const auto lengths = is_defined(lengths_in) ? lengths_in->contiguous() : Tensor();
  const auto bias = is_defined(bias_in) ? bias_in->contiguous() : Tensor();
  const int64_t R = q.size(0), S = keys.size(0), H = keys.size(1), N = keys.size(2), E = keys.size(3);
  auto y = at::empty({R, H * E}, q_in.options());
  const auto* slot = slots.defined() ? slots.const_data_ptr<int32_t>() : nullptr;
  const auto* length = lengths.defined() ? lengths.const_data_ptr<int32_t>() : nullptr;
  for (int64_t r = 0; slot != nullptr && r < R; ++r)
    require(slot[r] >= 0 && slot[r] < S, "CONFIG", "decode_attention: row ", r, " is to read slot ", slot[r], " of ",
            S);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q_in.scalar_type(), "decode_attention", [&] {
    using acc_t = sum_t<scalar_t>;
    const auto* of_q = q.const_data_ptr<acc_t>();
    const auto *of_keys = keys.const_data_ptr<scalar_t>(), *of_values = values.const_data_ptr<scalar_t>();
    const auto* of_bias = bias.defined() ? bias.const_data_ptr<acc_t>() : nullptr;
    auto* to = y.mutable_data_ptr<scalar_t>();
    std::vector<acc_t> scratch(N + E);
    for (int64_t rh = 0; rh < R * H; ++rh) {  // on one thread, as the products of decode_linear
      const int64_t r = rh / H, h = rh % H, at = slot == nullptr ? r : slot[r];
      const int64_t n = length == nullptr ? N : std::clamp<int64_t>(length[r] + more, 1, N);
      attend(of_q + rh * E, of_keys + at * keys.stride(0) + h * keys.stride(1), keys.stride(2),
             of_values + at * values.stride(0) + h * values.stride(1), values.stride(2),
             of_bias == nullptr ? nullptr : of_bias + rh * N, n, E, scratch.data(), scratch.data() + N);
      for (int64_t e = 0; e < E; ++e) to[rh * E + e] = static_cast<scalar_t>(scratch[N + e]);
    }
  });
  return y;
}

Tensor attention_cpu(const Tensor& q, const Tensor& keys, const Tensor& values, const Optional& slots,
                     const Optional& lengths, const Optional& bias, bool) {
  return attended(q, keys, values, slots, lengths, 0, bias);
}

Tensor self_attention_cpu(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                          const Tensor& positions, const Tensor& keys, const Tensor& values, bool) {
  const auto q = append_cpu(qkv, cos, sin, slots, positions, keys, values);
  return attended(q, keys, values, slots, positions, 1, {});
}

Tensor rows_cpu(const Tensor& slots_in, const Tensor& positions, const Tensor& context_lengths_in,
                const Optional& ahead_in, int64_t last) {
  check_decode_rows(slots_in, positions, context_lengths_in, ahead_in);
  const auto slots = slots_in.contiguous(), context_lengths = context_lengths_in.contiguous();
  const auto ahead = is_defined(ahead_in) ? ahead_in->contiguous() : Tensor();
  const int64_t R = slots.size(0), S = positions.size(0);
  auto rows = at::empty({3, R}, slots.options());
  const auto *slot = slots.const_data_ptr<int32_t>(), *context = context_lengths.const_data_ptr<int32_t>(),
             *further = ahead.defined() ? ahead.const_data_ptr<int32_t>() : nullptr;
  auto *to = rows.mutable_data_ptr<int32_t>(), *standing = positions.mutable_data_ptr<int32_t>();
  const auto most = static_cast<int32_t>(last);
  for (int64_t r = 0; r < R; ++r) {
    require(slot[r] >= 0 && slot[r] < S, "CONFIG", "decode_rows: row ", r, " is of slot ", slot[r], " of ", S);
    to[r] = std::min(standing[slot[r]] + (further == nullptr ? 0 : further[r]), most);
    to[R + r] = to[r] + 1;
    to[2 * R + r] = context[slot[r]];
  }
  for (int64_t r = 0; r < R; ++r) standing[slot[r]] = std::min(standing[slot[r]] + 1, most + 1);
  return rows;
}

}  // namespace

Tensor decode_append(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                     const Tensor& positions, const Tensor& keys, const Tensor& values) {
  constexpr Registered<"memformer::decode_append", decltype(decode_append)> op;
  return op(qkv, cos, sin, slots, positions, keys, values);
}

Tensor decode_attention(const Tensor& q, const Tensor& keys, const Tensor& values, const Optional& slots,
                        const Optional& lengths, const Optional& bias, bool settled) {
  constexpr Registered<"memformer::decode_attention", decltype(decode_attention)> op;
  return op(q, keys, values, slots, lengths, bias, settled);
}

Tensor decode_self_attention(const Tensor& qkv, const Optional& cos, const Optional& sin, const Tensor& slots,
                             const Tensor& positions, const Tensor& keys, const Tensor& values, bool settled) {
  constexpr Registered<"memformer::decode_self_attention", decltype(decode_self_attention)> op;
  return op(qkv, cos, sin, slots, positions, keys, values, settled);
}

Tensor decode_rows(const Tensor& slots, const Tensor& positions, const Tensor& context_lengths, const Optional& ahead,
                   int64_t last) {
  constexpr Registered<"memformer::decode_rows", decltype(decode_rows)> op;
  return op(slots, positions, context_lengths, ahead, last);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "decode_self_attention(Tensor qkv, Tensor? cos, Tensor? sin, Tensor slots, Tensor positions, Tensor(a!) keys, "
      "Tensor(b!) values, bool settled=False) -> Tensor");
  library.def(
      "decode_rows(Tensor slots, Tensor(a!) positions, Tensor context_lengths, Tensor? ahead, int last) -> Tensor");
  library.def(
      "decode_append(Tensor qkv, Tensor? cos, Tensor? sin, Tensor slots, Tensor positions, Tensor(a!) keys, Tensor(b!) "
      "values) -> Tensor q");
  library.def(
      "decode_attention(Tensor q, Tensor keys, Tensor values, Tensor? slots, Tensor? lengths, Tensor? bias, bool "
      "settled=False) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("decode_append", &append_cpu);
  library.impl("decode_attention", &attention_cpu);
  library.impl("decode_self_attention", &self_attention_cpu);
  library.impl("decode_rows", &rows_cpu);
}

}  // namespace memformer::ops
