// The contract of biased_norm's kernels: B M contiguous rows of D numbers, all of one dtype. acc is double for float64,
// else float.
// Letters: B batch, M slots, D width.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct BiasedNormForwardParams {
  const void* memory;  ///< (B, M, D)
  const void* bias;    ///< (M, D)
  const bool* reset;   ///< (B), rows whose memory counts as zeros, or null
  const int* lengths;  ///< (B), rows with 0 that do not start anew are copied, or null
  void* y;             ///< (B, M, D)
  void* norm;          ///< (B, M) acc, clamped
  int64_t B, M, D;
  double eps;
  cuda::Dtype dtype;
};

struct BiasedNormBackwardParams {
  const void* grad;    ///< (B, M, D)
  const void* y;       ///< (B, M, D)
  const void* norm;    ///< (B, M) acc
  const bool* reset;   ///< (B), rows without gradient of their memory, or null
  const int* lengths;  ///< (B), rows with 0 that do not start anew send their gradient on, or null
  void* grad_memory;   ///< (B, M, D)
  void* grad_bias;     ///< (M, D)
  int64_t B, M, D;
  double eps;
  cuda::Dtype dtype;
};

void launch_biased_norm_forward(const BiasedNormForwardParams& params, cudaStream_t stream);
void launch_biased_norm_backward(const BiasedNormBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
