#include "ops/head_norm/head_norm.h"

#include <ATen/OpMathType.h>

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "core/parallel.h"
#include "core/tensor_checks.h"
#include "ops/common/head_norm_eps.h"

// Saved for backward: y and r, with x = y / (gain r); with gains, of which one may be 0, x and r. Of a normed chunk,
// with g = dL/dy and z = r x:
//   dL/dx = gain r (g - y mean(g y) / gain^2) = gain r (g - z mean(g z))      dL/dgain = sum(g z)
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "head_norm";

void check(const Tensor& x, const Optional& gains, int64_t width, int64_t group, int64_t normed, double gain) {
  require_floating(kOp, "x", x);
  require(width > 0 && group > 0 && normed >= 0 && normed <= group, "CONFIG",
          "head_norm: needs a width and a group of at least 1, of which 0 to all are normed; got ", width, ", ", group,
          " and ", normed);
  require(gain > 0 && std::isfinite(gain), "CONFIG", "head_norm: gain must be a number above 0, got ", gain);
  require(x.dim() >= 1 && x.size(-1) > 0 && x.size(-1) % (group * width) == 0, "SHAPE",
          "head_norm: x must have a last axis of groups of ", group, " x ", width, " numbers, got ", x.sizes());
  if (!is_defined(gains)) return;
  require_shape(kOp, "gains", *gains, {normed});
  require_dtype(kOp, "gains", *gains, accumulate_type(x.scalar_type()));
  require(gains->device() == x.device(), "DEVICE_MISMATCH", "head_norm: gains must be on x's device ", x.device().str(),
          ", got ", gains->device().str());
}

/// body(chunk, its number among the normed) of every normed chunk; other(chunk) of the others.
template <typename Body, typename Other>
void for_chunks(int64_t count, const HeadNorm& norm, Body&& body, Other&& other) {
  parallel_for(count, std::max<int64_t>(1, 16384 / norm.width), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t in_group = c % norm.group;
      if (in_group < norm.normed)
        body(c, c / norm.group * norm.normed + in_group);
      else
        other(c);
    }
  });
}

/// term(0) + … + term(n - 1), in sixteen sums side by side: as fast as the processor's vectors, and more exact than
/// one.
template <typename acc_t, typename Term>
acc_t sum_of(int64_t n, Term&& term) {
  constexpr int64_t kSums = 16;
  acc_t sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  for (int64_t j = 0; i < n; ++i, ++j) sums[j] += term(i);
  for (int64_t half = kSums / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  return sums[0];
}

Tensor empty_scale(const Tensor& x, const HeadNorm& norm) {
  const int64_t row = x.size(-1), groups = row / (norm.group * norm.width);
  return at::empty({x.numel() / row, groups * norm.normed}, x.options().dtype(accumulate_type(x.scalar_type())));
}

/// x may be y. gains: contiguous, or undefined.
void forward_into(const Tensor& x, const Tensor& y, const Tensor& r, const HeadNorm& norm, const Tensor& gains = {}) {
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "head_norm", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto* from = x.const_data_ptr<scalar_t>();
    auto* to = y.mutable_data_ptr<scalar_t>();
    auto* scale = r.mutable_data_ptr<acc_t>();
    const auto* own = gains.defined() ? gains.const_data_ptr<acc_t>() : nullptr;
    const int64_t E = norm.width;
    for_chunks(
        x.numel() / E, norm,
        [&](int64_t chunk, int64_t place) {
          const acc_t gain = acc_t(norm.gain) * (own == nullptr ? acc_t(1) : own[place % norm.normed]);
          const auto* of = from + chunk * E;
          const acc_t sum = sum_of<acc_t>(E, [&](int64_t e) { return acc_t(of[e]) * acc_t(of[e]); });
          const acc_t by = acc_t(1) / std::sqrt(sum / acc_t(E) + acc_t(kHeadNormEps));
          scale[place] = by;
          for (int64_t e = 0; e < E; ++e) to[chunk * E + e] = scalar_t(gain * by * acc_t(from[chunk * E + e]));
        },
        [&](int64_t chunk) {
          if (from != to) std::copy_n(from + chunk * E, E, to + chunk * E);
        });
  });
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& x_in, int64_t width, int64_t group, int64_t normed, double gain,
                                       const Optional& gains) {
  const HeadNorm norm{width, group, normed, gain};
  const auto x = x_in.contiguous(), y = at::empty_like(x), r = empty_scale(x, norm);
  forward_into(x, y, r, norm, is_defined(gains) ? gains->contiguous() : Tensor());
  return {y, r};
}

Tensor in_place_cpu(const Tensor& x, int64_t width, int64_t group, int64_t normed, double gain) {
  const HeadNorm norm{width, group, normed, gain};
  const auto r = empty_scale(x, norm);
  forward_into(x, x, r, norm);
  return r;
}

/// dL/dx of `numbers`, which are y, or with gains x; with gains also dL/dgains.
std::tuple<Tensor, Tensor> send_back(const Tensor& grad_in, const Tensor& numbers, const Tensor& r,
                                     const HeadNorm& norm, const Tensor& gains) {
  const auto grad = grad_in.contiguous(), sent = at::empty_like(grad),
             dots = gains.defined() ? at::empty_like(r) : Tensor();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, numbers.scalar_type(), "head_norm_backward", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto *g = grad.const_data_ptr<scalar_t>(), *of = numbers.const_data_ptr<scalar_t>();
    const auto *scale = r.const_data_ptr<acc_t>(), *own = gains.defined() ? gains.const_data_ptr<acc_t>() : nullptr;
    auto* to = sent.mutable_data_ptr<scalar_t>();
    auto* of_dots = gains.defined() ? dots.mutable_data_ptr<acc_t>() : nullptr;
    const int64_t E = norm.width;
    for_chunks(
        numbers.numel() / E, norm,
        [&](int64_t chunk, int64_t place) {
          const int64_t start = chunk * E;
          const auto gain = acc_t(norm.gain), by = scale[place];
          const acc_t dot = sum_of<acc_t>(E, [&](int64_t e) { return acc_t(g[start + e]) * acc_t(of[start + e]); });
          const acc_t mean = own == nullptr ? dot / acc_t(E) / (gain * gain) : by * by * dot / acc_t(E);
          const acc_t whole = own == nullptr ? gain * by : gain * own[place % norm.normed] * by;
          if (own != nullptr) of_dots[place] = gain * by * dot;
          for (int64_t i = start; i < start + E; ++i) to[i] = scalar_t(whole * (acc_t(g[i]) - acc_t(of[i]) * mean));
        },
        [&](int64_t chunk) { std::copy_n(g + chunk * E, E, to + chunk * E); });
  });
  if (!gains.defined()) return {sent, Tensor()};
  return {sent, dots.view({dots.numel() / std::max<int64_t>(1, norm.normed), norm.normed}).sum(0)};
}

Tensor backward_cpu(const Tensor& grad, const Tensor& y, const Tensor& r, int64_t width, int64_t group, int64_t normed,
                    double gain) {
  return std::get<0>(send_back(grad, y, r, {width, group, normed, gain}, {}));
}

std::tuple<Tensor, Tensor> gains_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& r, const Tensor& gains,
                                              int64_t width, int64_t group, int64_t normed, double gain) {
  return send_back(grad, x, r, {width, group, normed, gain}, gains.contiguous());
}

constexpr Registered<"memformer::head_norm_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::head_norm_backward", decltype(backward_cpu)> backward_kernel;
constexpr Registered<"memformer::head_norm_gains_backward", decltype(gains_backward_cpu)> gains_backward_kernel;

struct Normed {
  struct Saved {
    Tensor numbers, r;  // y, with gains x
    Optional gains;
    HeadNorm norm;
    auto variables() { return std::tie(numbers, r, gains); }
  };

  static Tensor forward(Saved* saved, const Tensor& x, const Optional& gains, int64_t width, int64_t group,
                        int64_t normed, double gain) {
    check(x, gains, width, group, normed, gain);
    auto [y, r] = forward_kernel(x, width, group, normed, gain, gains);
    if (saved != nullptr) *saved = {is_defined(gains) ? x.contiguous() : y, r, gains, {width, group, normed, gain}};
    return y;
  }

  static std::tuple<Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    const auto& [width, group, normed, gain] = s.norm;
    const auto& grad = pass.gradients[0];
    if (!is_defined(s.gains)) return {backward_kernel(grad, s.numbers, s.r, width, group, normed, gain), Tensor()};
    return gains_backward_kernel(grad, s.numbers, s.r, *s.gains, width, group, normed, gain);
  }
};

}  // namespace

Tensor head_norm(const Tensor& x, const HeadNorm& norm, const Optional& gains) {
  constexpr Registered<"memformer::head_norm", Signature<Normed>> op;
  return op(x, gains, norm.width, norm.group, norm.normed, norm.gain);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<Normed>(library,
                 "head_norm(Tensor x, Tensor? gains, int width, int group, int normed, float gain=1.0) -> Tensor");
  library.def(
      "head_norm_forward(Tensor x, int width, int group, int normed, float gain, Tensor? gains) -> (Tensor y, Tensor "
      "r)",
      on_cpu(&forward_cpu));
  library.def(
      "head_norm_gains_backward(Tensor grad, Tensor x, Tensor r, Tensor gains, int width, int group, int normed, float "
      "gain) -> (Tensor grad_x, Tensor grad_gains)",
      on_cpu(&gains_backward_cpu));
  library.def("head_norm_in_place(Tensor(a!) x, int width, int group, int normed, float gain) -> Tensor r",
              on_cpu(&in_place_cpu));
  library.def(
      "head_norm_backward(Tensor grad, Tensor y, Tensor r, int width, int group, int normed, float gain) -> Tensor",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
