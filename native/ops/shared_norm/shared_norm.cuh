// The contract of shared_norm's kernels: N rows of D numbers, contiguous, for up to kSharedNorms layers a launch. x and the weights are
// float32 or float64 (acc), the normed ones and their gradients `dtype`.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

constexpr int kSharedNorms = 4;

struct SharedNormParams {
  const void* x;                     ///< (N, D) acc
  void* mean;                        ///< (N) acc, read where `first` is false
  void* rstd;
  int64_t N, D;
  int layers;
  const void* weights[kSharedNorms];  ///< (D) acc
  const void* biases[kSharedNorms];
  void* normed[kSharedNorms];         ///< (N, D) dtype; backward: their gradients
  double eps;
  cuda::Dtype x_dtype, dtype;
};

struct SharedNormBackwardParams {
  SharedNormParams forward;
  void* grad_x;                          ///< (N, D) acc
  bool add_x;                            ///< grad_x is added to
  void* partials;                        ///< (shared_norm_partials(N), 2 kSharedNorms, D) acc
  void* weight_sums[kSharedNorms];       ///< (D) acc
  void* bias_sums[kSharedNorms];
  bool add_sums;                         ///< the sums are added to
};

void launch_shared_norm_forward(const SharedNormParams& params, cudaStream_t stream);
int64_t shared_norm_partials(int64_t N);
void launch_shared_norm_backward(const SharedNormBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
