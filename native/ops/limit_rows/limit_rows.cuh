// The contract of limit_rows's kernels. acc is float, double for float64.
// Letters: B rows, n numbers of a row.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct LimitRowsParams {
  const void* x;   ///< (B, n)
  void* y;         ///< (B, n)
  void* partials;  ///< (B, limit_rows_parts(n)) acc
  void* factors;   ///< (B) acc
  int64_t B, n;
  double decay, limit;
  cuda::Dtype dtype;
};

/// Parts that a row's sum of squares is made of.
int64_t limit_rows_parts(int64_t n);
void launch_limit_rows(const LimitRowsParams& params, cudaStream_t stream);

}  // namespace memformer::ops
