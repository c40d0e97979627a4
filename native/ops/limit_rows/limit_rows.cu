// Three kernels: sums of squares, a block a part of a row; the factors of all rows, by one block; and the scaling.
#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/limit_rows/limit_rows.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int64_t kPart = 8192;  // numbers

/// body(std::integral_constant<int, wide>(), i) of the block's numbers of its row.
template <typename T, typename Body>
__device__ __forceinline__ void for_part(const LimitRowsParams& p, bool packed, Body&& body) {
  const int64_t end = min(p.n, (int64_t{blockIdx.x} + 1) * kPart);
  const auto pass = [&](auto wide) {
    for (int64_t i = int64_t{blockIdx.x} * kPart + int64_t{threadIdx.x} * wide.value; i < end;
         i += int64_t{kThreads} * wide.value)
      body(wide, i);
  };
  constexpr int most = 16 / sizeof(T);
  if (packed)
    pass(std::integral_constant<int, most>());
  else
    pass(std::integral_constant<int, 1>());
}

template <typename T>
__device__ __forceinline__ bool is_packed(const LimitRowsParams& p) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  return p.n % (16 / sizeof(T)) == 0 && aligned(p.x) && aligned(p.y);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) squares_kernel(const LimitRowsParams p) {
  using acc_t = accumulate_t<T>;
  const auto* x = static_cast<const T*>(p.x) + blockIdx.y * p.n;
  acc_t sum = 0;
  for_part<T>(p, is_packed<T>(p), [&](auto wide, int64_t i) {
    acc_t value[wide.value];
    load(x + i, value);
#pragma unroll
    for (int k = 0; k < wide.value; ++k) sum += value[k] * value[k];
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

template <typename T>
__global__ void __launch_bounds__(kThreads) limit_rows_kernel(const LimitRowsParams p) {
  using acc_t = accumulate_t<T>;
  const acc_t by = static_cast<const acc_t*>(p.factors)[blockIdx.y];
  const auto* x = static_cast<const T*>(p.x) + blockIdx.y * p.n;
  auto* y = static_cast<T*>(p.y) + blockIdx.y * p.n;
  for_part<T>(p, is_packed<T>(p), [&](auto wide, int64_t i) {
    acc_t value[wide.value];
    load(x + i, value);
#pragma unroll
    for (int k = 0; k < wide.value; ++k) value[k] *= by;
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
    squares_kernel<T><<<grid, kThreads, 0, stream>>>(p);
    row_factors_kernel<accumulate_t<T>><<<1, kThreads, 0, stream>>>(p, static_cast<int>(grid.x));
    limit_rows_kernel<T><<<grid, kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
