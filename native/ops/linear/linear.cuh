// The contract of the kernels that sum a bias's gradient: sink[c] += sum over n of grad[n, c].
// Letters: N rows, C outputs.
#pragma once
#include <cuda_runtime_api.h>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct BiasGradientParams {
  const void* grad;  ///< (N, C), a row every `stride` numbers
  void* partials;    ///< (splits, C) float, double for float64; null where splits is 1
  void* sink;        ///< (C) float, double for float64
  int64_t N, C, stride;
  int64_t splits;  ///< of bias_gradient_splits
  cuda::Dtype dtype;
};

/// Into how many shares the rows are split to fill the chip.
int64_t bias_gradient_splits(int64_t N, int64_t C, cuda::Dtype dtype);
void launch_bias_gradient(const BiasGradientParams& params, cudaStream_t stream);

}  // namespace memformer::ops
