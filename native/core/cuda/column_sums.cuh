// Sums over rows that kernels come by on their way, as gradients of biases: N rows fall into shares, each share leaves what its own
// rows add up to, and a small kernel adds these partial sums up, in order.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#ifdef __CUDACC__
#include "core/cuda/numeric.cuh"
#endif

namespace memformer::cuda {

/// acc is float, double for float64.
struct ColumnSums {
  static constexpr int kMost = 3;
  const void* partials;  ///< (shares, kinds, width) acc
  void* sums[kMost];     ///< of each kind: (width) acc
  bool add[kMost];       ///< sums[i] is added to, not written
  int64_t shares, width;
  int kinds;
  bool is_double;
};

/// Shares of N rows that `threads` threads a row are to take: two blocks of four warps a multiprocessor of an H100 where rows are few,
/// then eight rows a share, so that partial sums stay few beside the rows.
inline int64_t row_shares(int64_t N, int64_t threads) {
  const int64_t least = std::max<int64_t>(1, 132 * 2 * 128 / threads);
  return std::max<int64_t>(1, std::min(N, std::clamp(N / 8, least, 4 * least)));
}

#ifdef __CUDACC__

constexpr int kSumRows = 16;

/// 32 columns a block; row y of the block takes every kSumRows-th share.
template <typename acc_t>
__global__ void __launch_bounds__(kWarp* kSumRows) column_sums_kernel(const ColumnSums p) {
  __shared__ acc_t sums[kSumRows][kWarp];
  const int64_t columns = p.kinds * p.width, column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  acc_t sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t share = threadIdx.y; share < p.shares; share += kSumRows)
      sum += static_cast<const acc_t*>(p.partials)[share * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int row = 1; row < kSumRows; ++row) sum += sums[row][threadIdx.x];
#pragma unroll
  for (int kind = 0; kind < ColumnSums::kMost; ++kind) {
    const int64_t within = column - kind * p.width;
    if (within < 0 || within >= p.width) continue;
    auto* to = static_cast<acc_t*>(p.sums[kind]) + within;
    *to = p.add[kind] ? *to + sum : sum;
  }
}

inline void launch_column_sums(const ColumnSums& p, cudaStream_t stream) {
  if (p.width == 0) return;
  const unsigned blocks = static_cast<unsigned>((p.kinds * p.width + kWarp - 1) / kWarp);
  if (p.is_double) column_sums_kernel<double><<<blocks, dim3(kWarp, kSumRows), 0, stream>>>(p);
  else column_sums_kernel<float><<<blocks, dim3(kWarp, kSumRows), 0, stream>>>(p);
}

#endif

}  // namespace memformer::cuda
