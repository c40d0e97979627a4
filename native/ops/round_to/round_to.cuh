// The contract of round_to's kernel.
// Letters: n numbers.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct RoundToParams {
  const void* x;  ///< (n)
  void* y;        ///< (n)
  int64_t n;
  cuda::Dtype dtype;   ///< of both
  cuda::Dtype narrow;  ///< what they are rounded to
};

void launch_round_to(const RoundToParams& params, cudaStream_t stream);

}  // namespace memformer::ops
