// The contract of layer_norm_no_affine's kernels: N rows of D numbers, contiguous. acc is x's dtype, float or double.
// Letters: N rows, D width.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

constexpr int kStandardizeReaders = 4;

struct LayerNormNoAffineParams {
  const void* x;  ///< (N, D) acc
  void* z;        ///< (N, D) of `dtype`
  void* mean;     ///< (N) acc
  void* rstd;     ///< (N) acc
  int64_t N, D;
  double eps;
  cuda::Dtype x_dtype, dtype;  ///< float32 beside any but float64; float64 twice
};

struct LayerNormNoAffineBackwardParams {
  LayerNormNoAffineParams forward;         ///< z is not read
  const void* grads[kStandardizeReaders];  ///< (N, D) of `dtype` each, the first `readers` of them
  const void* grad_x;                      ///< (N, D) acc, or null
  void* sent;                              ///< (N, D) acc
  int readers;
};

void launch_layer_norm_no_affine_forward(const LayerNormNoAffineParams& params, cudaStream_t stream);
void launch_layer_norm_no_affine_backward(const LayerNormNoAffineBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
