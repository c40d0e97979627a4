// Dot products on a CPU whose order of summation depends on their length alone: sums side by side, a vector of them,
// added up in one fixed order. However many of them are computed at once, each has the same bits.
#pragma once
#include <cmath>

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "core/torch.h"

namespace memformer {

/// The dtype that sums over scalar_t are carried in.
template <typename scalar_t>
using sum_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

/// How many numbers make a vector: 8, of float64 4.
template <typename acc_t>
constexpr int64_t kLanes = 32 / sizeof(acc_t);

/// So many side by side, as the compiler's vectors.
template <typename acc_t>
struct Lanes {
  typedef acc_t type __attribute__((vector_size(32), aligned(sizeof(acc_t)), may_alias));
};
template <typename acc_t>
using lanes_t = typename Lanes<acc_t>::type;

/// from[0..kLanes) widened.
template <typename scalar_t>
__attribute__((always_inline)) inline lanes_t<sum_t<scalar_t>> load_lanes(const scalar_t* from) {
  using lanes = lanes_t<sum_t<scalar_t>>;
  if constexpr (std::is_same_v<scalar_t, sum_t<scalar_t>>) {
    return *reinterpret_cast<const lanes*>(from);
  } else {
    static_assert(std::is_same_v<scalar_t, at::BFloat16>);
    typedef uint16_t narrow __attribute__((vector_size(16), aligned(2), may_alias));
    typedef uint32_t wide __attribute__((vector_size(32)));
    const wide bits = __builtin_convertvector(*reinterpret_cast<const narrow*>(from), wide) << 16;
    return reinterpret_cast<lanes>(bits);
  }
}

/// from[0..count) widened, zeros behind; count < kLanes.
template <typename scalar_t>
__attribute__((always_inline)) inline lanes_t<sum_t<scalar_t>> load_lanes(const scalar_t* from, int64_t count) {
  lanes_t<sum_t<scalar_t>> to{};
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<sum_t<scalar_t>>(from[i]);
  return to;
}

/// a b + c with one rounding, wherever it is inlined: left to itself the compiler fuses the one product and not the
/// other.
template <typename acc_t>
__attribute__((always_inline)) inline lanes_t<acc_t> fused(lanes_t<acc_t> a, lanes_t<acc_t> b, lanes_t<acc_t> c) {
  lanes_t<acc_t> sum;
#ifdef __FMA__
  if constexpr (std::is_same_v<acc_t, float>)
    sum = reinterpret_cast<lanes_t<acc_t>>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
  else
    sum = reinterpret_cast<lanes_t<acc_t>>(
        _mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b), reinterpret_cast<__m256d>(c)));
#else
  for (int64_t i = 0; i < kLanes<acc_t>; ++i) sum[i] = std::fma(a[i], b[i], c[i]);
#endif
  return sum;
}

template <typename acc_t>
__attribute__((always_inline)) inline acc_t sum_lanes(lanes_t<acc_t> x) {
  if constexpr (kLanes<acc_t> == 4)
    return (x[0] + x[2]) + (x[1] + x[3]);
  else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/// The dot products of `rows` rows x (stride x_row) with `columns` rows w (stride w_row), n numbers each, into
/// y[r * y_row + c].
template <int rows, int columns, typename scalar_t>
__attribute__((always_inline)) inline void dot_products(const sum_t<scalar_t>* x, int64_t x_row, const scalar_t* w,
                                                        int64_t w_row, int64_t n, sum_t<scalar_t>* y, int64_t y_row) {
  using acc_t = sum_t<scalar_t>;
  lanes_t<acc_t> sums[rows][columns] = {};
  const int64_t whole = n / kLanes<acc_t> * kLanes<acc_t>;
  for (int64_t k = 0; k < whole; k += kLanes<acc_t>) {
    lanes_t<acc_t> of_w[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) of_w[c] = load_lanes(w + c * w_row + k);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const auto of_x = load_lanes(x + r * x_row + k);
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) sums[r][c] = fused<acc_t>(of_x, of_w[c], sums[r][c]);
    }
  }
  if (whole < n) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c)
        sums[r][c] = fused<acc_t>(load_lanes(x + r * x_row + whole, n - whole),
                                  load_lanes(w + c * w_row + whole, n - whole), sums[r][c]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) y[r * y_row + c] = sum_lanes<acc_t>(sums[r][c]);
}

}  // namespace memformer
