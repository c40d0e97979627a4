// The contract of the optimizer's kernels: n contiguous numbers. acc is double for float64, else float.
#pragma once
#include <cuda_runtime_api.h>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct AdamwParams {
  void* parameters;        ///< (n) acc
  void* gradients;         ///< (n) acc, set to 0
  void* exp_avg;           ///< (n) acc
  void* exp_avg_sq;        ///< (n) acc
  void* working;           ///< (n) working_dtype, takes the new parameters; null: none
  float* step;             ///< () steps made, counted up unless norm is not finite
  const void* norm;        ///< () acc
  const float* rate;       ///< ()
  const void* grad_scale;  ///< () acc; null: 1
  int64_t n, decayed;
  double beta1, beta2, eps, weight_decay, clip;
  cuda::Dtype dtype, working_dtype;
};

void launch_adamw(const AdamwParams& params, cudaStream_t stream);

/// How many numbers launch_gradient_norm needs room for.
int64_t gradient_norm_partials(int64_t n);

/// norm () = the L2 norm of gradients (n) / grad_scale () (null: 1), all acc; partials (gradient_norm_partials(n))
/// float64.
void launch_gradient_norm(const void* gradients, const void* grad_scale, double* partials, void* norm, int64_t n,
                          cuda::Dtype dtype, cudaStream_t stream);

}  // namespace memformer::ops
