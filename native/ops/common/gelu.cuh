// GELU and its derivative:  gelu(x) = x Phi(x),  gelu'(x) = Phi(x) + x phi(x),  with Phi the distribution function and
// phi the density of the standard normal distribution.
#pragma once
#include "core/cuda/numeric.cuh"

namespace memformer::cuda {

template <typename acc_t>
struct Normal {
  acc_t distribution, density;  // of the standard normal distribution
};

/// For what is rounded to two bytes: one exponential serves both, and the tail is a product, not a difference. The
/// distribution's error is below 1e-7 (Abramowitz and Stegun, 7.1.26, whose argument is |x| / sqrt(2)); half a unit of
/// bfloat16 at 1 is 2e-3.
template <typename scalar_t, typename acc_t>
__device__ __forceinline__ Normal<acc_t> normal(acc_t x) {
  if constexpr (sizeof(scalar_t) == 2) {
    const float t = __fdividef(1.0f, fmaf(0.3275911f * 0.70710678f, fabsf(x), 1.0f));
    const float exponential = exp2f(-0.72134752f * x * x);  // exp(-x^2 / 2)
    const float series =
        t * fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f);
    const float tail = 0.5f * series * exponential;
    return {x < 0.0f ? tail : 1.0f - tail, 0.39894228f * exponential};
  } else {
    return {acc_t(0.5) * (acc_t(1) + erf(x * acc_t(0.70710678118654752440))),
            acc_t(0.39894228040143267794) * exp(acc_t(-0.5) * x * x)};
  }
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ acc_t gelu(acc_t x) {
  return x * normal<scalar_t>(x).distribution;
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ acc_t gelu_derivative(acc_t x) {
  const auto at = normal<scalar_t>(x);
  return at.distribution + x * at.density;
}

}  // namespace memformer::cuda
