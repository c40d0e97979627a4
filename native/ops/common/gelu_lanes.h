// GELU on a CPU, a vector at a time: a number's bits do not depend on those beside it, which LibTorch's vectors and
// what they leave over do not promise.
#pragma once
#include "ops/common/lanes.h"

namespace memformer {

/// c_0 + c_1 t + c_2 t^2 + ..., by Horner's rule.
template <size_t N>
__attribute__((always_inline)) inline lanes_t<float> polynomial(const float (&c)[N], lanes_t<float> t) {
  lanes_t<float> sum = lanes_t<float>{} + c[N - 1];
#pragma GCC unroll 8
  for (size_t i = 1; i < N; ++i) sum = fused<float>(sum, t, lanes_t<float>{} + c[N - 1 - i]);
  return sum;
}

/// erf(x) = x P(x^2) / Q(x^2) within 4e-7, relative too: a rational fit of least maximal error on [0, 4]; from 3.92 on
/// erf is 1 in float32. NaN of NaN.
__attribute__((always_inline)) inline lanes_t<float> erf_lanes(lanes_t<float> x) {
  constexpr float kP[] = {1.1283791549906643f,    0.1875102384883477f,     0.05236629251511774f,
                          0.0036455389884323805f, 0.00028275842785492394f, 2.0764679670013606e-6f};
  constexpr float kQ[] = {1.0f,
                          0.4995096253869877f,
                          0.11291344067326152f,
                          0.014723233956873239f,
                          0.0011348391660808465f,
                          3.826269004161577e-5f};
  const lanes_t<float> end = lanes_t<float>{} + 3.92f, one = lanes_t<float>{} + 1.0f;
  const auto t = x * x, sum = x * polynomial(kP, t) / polynomial(kQ, t);
  return x > end ? one : x < -end ? -one : sum;
}

/// h/2 (1 + erf(h / sqrt(2))) of n numbers.
inline void gelu_in_place(float* h, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<float>) {
    const int64_t here = std::min<int64_t>(kLanes<float>, n - i);
    const auto x = here == kLanes<float> ? load_lanes(h + i) : load_lanes(h + i, here);
    const auto y = 0.5f * x * (1.0f + erf_lanes(x * static_cast<float>(M_SQRT1_2)));
    for (int64_t k = 0; k < here; ++k) h[i + k] = y[k];
  }
}
inline void gelu_in_place(double* h, int64_t n) {
  for (int64_t i = 0; i < n; ++i) h[i] = 0.5 * h[i] * (1.0 + std::erf(h[i] * M_SQRT1_2));
}

}  // namespace memformer
