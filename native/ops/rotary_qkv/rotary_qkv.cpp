#include "ops/rotary_qkv/rotary_qkv.h"

#include "core/operator.h"
#include "core/parallel.h"
#include "ops/common/packed_qkv.h"

// Saved for backward: cos and sin alone; the gradient is the same rotation by the opposite angles, that of the bias its
// sum over rows.
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "rotary_qkv";

struct Sizes {
  int64_t B, T, H, half;
};

/// Calls move(packed row of (b, t, part, h), split row of part, cos row, sin row) for every head of every token.
template <typename Move>
void for_each_head(const Sizes& size, const Move& move) {
  const auto [B, T, H, half] = size;
  const int64_t E = 2 * half;
  parallel_for(B * T, std::max<int64_t>(1, 8192 / std::max<int64_t>(3 * H * E, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t bt = begin; bt < end; ++bt) {
      const int64_t b = bt / T, t = bt % T;
      for (int64_t part = 0; part < 3; ++part)
        for (int64_t h = 0; h < H; ++h) move(part, ((bt * 3 + part) * H + h) * E, ((b * H + h) * T + t) * E, t * half);
    }
  });
}

/// y = x + bias turned by the angle (opposite: by minus the angle).
template <typename scalar_t, typename angle_t, typename Bias>
inline void turn(const scalar_t* x, const Bias& bias, scalar_t* y, const angle_t* cos, const angle_t* sin, int64_t half,
                 angle_t sign) {
#pragma omp simd
  for (int64_t e = 0; e < half; ++e) {
    const angle_t x1 = static_cast<angle_t>(x[e]) + bias(e), x2 = static_cast<angle_t>(x[e + half]) + bias(e + half);
    const angle_t c = cos[e], s = sin[e] * sign;
    y[e] = static_cast<scalar_t>(x1 * c - x2 * s);
    y[e + half] = static_cast<scalar_t>(x2 * c + x1 * s);
  }
}

std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& qkv_in, const Optional& bias_in, const Optional& bias_sink,
                                               const Tensor& cos_in, const Tensor& sin_in, int64_t heads) {
  check_rotary("rotary_qkv", qkv_in, bias_in, bias_sink, cos_in, sin_in, heads);
  const auto bias = is_defined(bias_in) ? bias_in->contiguous() : Tensor();
  const auto qkv = qkv_in.contiguous(), cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const Sizes size{qkv.size(0), qkv.size(1), heads, qkv.size(2) / (6 * heads)};
  auto split = [&] { return at::empty({size.B, size.H, size.T, 2 * size.half}, qkv.options()); };
  auto q = split(), k = split(), v = split();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, qkv.scalar_type(), kOp, [&] {
    using angle_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    const auto* x = qkv.const_data_ptr<scalar_t>();
    const auto *c = cos.const_data_ptr<angle_t>(), *s = sin.const_data_ptr<angle_t>();
    scalar_t* parts[3] = {q.mutable_data_ptr<scalar_t>(), k.mutable_data_ptr<scalar_t>(),
                          v.mutable_data_ptr<scalar_t>()};
    const auto* b = bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr;
    const int64_t width = 6 * size.H * size.half;
    for_each_head(size, [&](int64_t part, int64_t packed, int64_t row, int64_t angle) {
      const auto* from = x + packed;
      auto* to = parts[part] + row;
      if (b == nullptr) {
        if (part == 2)
          std::copy_n(from, 2 * size.half, to);
        else
          turn(from, [](int64_t) { return angle_t(0); }, to, c + angle, s + angle, size.half, angle_t(1));
        return;
      }
      const auto* of_head = b + packed % width;
      const auto added = [of_head](int64_t e) { return static_cast<angle_t>(of_head[e]); };
      if (part < 2) return turn(from, added, to, c + angle, s + angle, size.half, angle_t(1));
      for (int64_t e = 0; e < 2 * size.half; ++e)
        to[e] = static_cast<scalar_t>(static_cast<angle_t>(from[e]) + added(e));
    });
  });
  return {q, k, v};
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad_q_in, const Tensor& grad_k_in, const Tensor& grad_v_in,
                                        const Optional& bias_sink, const Tensor& cos_in, const Tensor& sin_in,
                                        bool with_bias) {
  const auto grad_q = grad_q_in.contiguous(), grad_k = grad_k_in.contiguous(), grad_v = grad_v_in.contiguous();
  const auto cos = cos_in.contiguous(), sin = sin_in.contiguous();
  const Sizes size{grad_q.size(0), grad_q.size(2), grad_q.size(1), grad_q.size(3) / 2};
  auto grad = at::empty({size.B, size.T, 3 * size.H * 2 * size.half}, grad_q.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, grad.scalar_type(), kOp, [&] {
    using angle_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    auto* y = grad.mutable_data_ptr<scalar_t>();
    const auto *c = cos.const_data_ptr<angle_t>(), *s = sin.const_data_ptr<angle_t>();
    const scalar_t* parts[3] = {grad_q.const_data_ptr<scalar_t>(), grad_k.const_data_ptr<scalar_t>(),
                                grad_v.const_data_ptr<scalar_t>()};
    for_each_head(size, [&](int64_t part, int64_t packed, int64_t row, int64_t angle) {
      if (part == 2)
        std::copy_n(parts[2] + row, 2 * size.half, y + packed);
      else
        turn(
            parts[part] + row, [](int64_t) { return angle_t(0); }, y + packed, c + angle, s + angle, size.half,
            angle_t(-1));
    });
  });
  if (!with_bias) return {grad, at::empty({0}, grad.options())};
  return {grad, accumulate_or_return(at::sum(grad, at::IntArrayRef({0, 1}), false, accumulate_type(grad.scalar_type())),
                                     bias_sink, grad.scalar_type())};
}

constexpr Registered<"memformer::rotary_qkv", decltype(forward_cpu)> dispatched;
constexpr Registered<"memformer::rotary_qkv_backward", decltype(backward_cpu)> backward_kernel;

struct RotaryQkv {
  struct Saved {
    Tensor cos, sin;
    Destination of_bias;
    auto variables() { return std::tie(cos, sin); }
  };

  static std::tuple<Tensor, Tensor, Tensor> forward(Saved* saved, const Tensor& qkv, const Optional& bias,
                                                    const Optional& bias_sink, const Tensor& cos, const Tensor& sin,
                                                    int64_t heads) {
    if (saved != nullptr) *saved = {cos, sin, {bias, bias_sink}};
    return dispatched(qkv, bias, bias_sink, cos, sin, heads);
  }

  static std::tuple<Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    const auto& grads = pass.gradients;
    auto [qkv, bias] = backward_kernel(grads[0], grads[1], grads[2], s.of_bias.sink, s.cos, s.sin, s.of_bias.given);
    return {qkv, s.of_bias(std::move(bias))};
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rotary_qkv(const Tensor& qkv, const Trained& bias, const Tensor& cos,
                                              const Tensor& sin, int64_t heads) {
  return dispatched(qkv, bias.optional(), bias.sink, cos, sin, heads);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "rotary_qkv(Tensor qkv, Tensor? bias, Tensor? bias_sink, Tensor cos, Tensor sin, int heads) -> (Tensor q, Tensor "
      "k, Tensor v)",
      on_cpu(&forward_cpu));
  library.impl("rotary_qkv", with_gradient<RotaryQkv>());
  library.def(
      "rotary_qkv_backward(Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor(a!)? bias_sink, Tensor cos, Tensor sin, "
      "bool with_bias) -> (Tensor grad_qkv, Tensor grad_bias)",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
