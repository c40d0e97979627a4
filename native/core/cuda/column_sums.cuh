// Sums over rows that kernels produce on the way, such as gradients of biases. N rows are divided into shares; each
// share leaves its partial sum, and a small kernel adds the partial sums in a fixed order. One launch serves many
// operators.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

namespace memformer::cuda {

/// Of one operator. acc is float, double for float64.
struct ColumnSums {
  static constexpr int kMostKinds = 3;
  const void* partials;    ///< (shares, kinds, width) acc
  void* sums[kMostKinds];  ///< of each kind: (width) acc
  bool add[kMostKinds];    ///< sums[i] is added to, not written
  int shares, width, kinds;
};

struct ColumnSumsBatch {
  static constexpr int kMost = 32;
  ColumnSums of[kMost];  ///< no two of them with the same sums
  int count;
  bool is_double;
};

/// Shares of N rows that `threads` threads a row are to take: two to four blocks of four warps a multiprocessor of an
/// H100, so that partial sums stay few beside the rows.
inline int64_t row_shares(int64_t N, int64_t threads) {
  const int64_t least = std::max<int64_t>(1, 132 * 2 * 128 / threads);
  return std::max<int64_t>(1, std::min(N, std::clamp(N / 16, least, 2 * least)));
}

void launch_column_sums(const ColumnSumsBatch& batch, cudaStream_t stream);

}  // namespace memformer::cuda
