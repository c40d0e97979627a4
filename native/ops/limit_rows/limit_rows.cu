// Three kernels: sums of squares, a block a part of a row; the factors of all rows, by one block; and the scaling.
#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/limit_rows/limit_rows.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int64_t kPart = 8192;  // numbers

/// body(i) of every `wide` numbers of the block's part of its row.
template <int wide, typename Body>
__device__ __forceinline__ void for_part(int64_t n, Body&& body) {
  const int64_t first = int64_t{blockIdx.x} * kPart, end = min(n, first + kPart);
  for (int64_t i = first + int64_t{threadIdx.x} * wide; i < end; i += int64_t{kThreads} * wide) body(i);
}

template <typename T, int wide>
__global__ void __launch_bounds__(kThreads) squares_kernel(const LimitRowsParams p) {
  using acc_t = accumulate_t<T>;
  const auto* x = static_cast<const T*>(p.x) + blockIdx.y * p.n;
  acc_t sum = 0;
  for_part<wide>(p.n, [&](int64_t i) {
    acc_t value[wide];
    load(x + i, value);
#pragma unroll
    for (int k = 0; k < wide; ++k) sum += value[k] * value[k];
  });
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.partials)[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = sum;
}

/// One block, a warp a row at a time: the rows' lengths, then what each is multiplied by, in their place.
template <typename acc_t>
__global__ void __launch_bounds__(kThreads) row_factors_kernel(const LimitRowsParams p, int parts) {
  constexpr int kWarps = kThreads / kWarp;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto* partials = static_cast<const acc_t*>(p.partials);
  auto* factors = static_cast<acc_t*>(p.factors);
  acc_t total = 0;
  for (int64_t row = warp; row < p.B; row += kWarps) {
    acc_t square = 0;
    for (int i = lane; i < parts; i += kWarp) square += partials[row * parts + i];
    const acc_t length = sqrt(warp_sum(square));
    if (lane == 0) {
      factors[row] = length;
      total += length;
    }
  }
  total = block_sum<kThreads>(total);  // its barriers: the lengths are there
  const acc_t most = total / static_cast<acc_t>(p.B) * static_cast<acc_t>(p.limit);
  for (int64_t row = threadIdx.x; row < p.B; row += kThreads)
    factors[row] = static_cast<acc_t>(p.decay) * min(acc_t(1), most / max(factors[row], acc_t(1e-30)));
}

template <typename T, int wide>
__global__ void __launch_bounds__(kThreads) limit_rows_kernel(const LimitRowsParams p) {
  using acc_t = accumulate_t<T>;
  const acc_t by = static_cast<const acc_t*>(p.factors)[blockIdx.y];
  const auto* x = static_cast<const T*>(p.x) + blockIdx.y * p.n;
  auto* y = static_cast<T*>(p.y) + blockIdx.y * p.n;
  for_part<wide>(p.n, [&](int64_t i) {
    acc_t value[wide];
    load(x + i, value);
#pragma unroll
    for (int k = 0; k < wide; ++k) value[k] *= by;
    store(value, y + i);
  });
}

}  // namespace

int64_t limit_rows_parts(int64_t n) { return ceil_div(n, kPart); }

void launch_limit_rows(const LimitRowsParams& p, cudaStream_t stream) {
  if (p.B == 0 || p.n == 0) return;
  const dim3 grid(static_cast<unsigned>(limit_rows_parts(p.n)), static_cast<unsigned>(p.B));
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto launch = [&](auto wide) {
      squares_kernel<T, wide.value><<<grid, kThreads, 0, stream>>>(p);
      row_factors_kernel<accumulate_t<T>><<<1, kThreads, 0, stream>>>(p, static_cast<int>(grid.x));
      limit_rows_kernel<T, wide.value><<<grid, kThreads, 0, stream>>>(p);
    };
    constexpr int most = 16 / sizeof(T);
    if (fits_packs<most>(static_cast<const T*>(p.x), p.n) && fits_packs<most>(static_cast<const T*>(p.y), p.n))
      launch(std::integral_constant<int, most>());
    else
      launch(std::integral_constant<int, 1>());
  });
}

}  // namespace memformer::ops
