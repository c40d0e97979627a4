// The contract of gelu_dropout's kernels: N rows of C numbers of one dtype, contiguous. acc is float, double for
// float64.
// Letters: N rows, C channels.
#pragma once
#include <cuda_runtime_api.h>

#include "core/cuda/dtype.cuh"
#include "ops/common/dropout_mask.cuh"

namespace memformer::ops {

struct GeluDropoutParams {
  const void* x;     ///< (N, C)
  const void* bias;  ///< (C); null: none
  const void* grad;  ///< (N, C) of the result; null in the forward pass
  void* out;         ///< (N, C) the result, or the gradient of x
  void* partials;    ///< (shares, C) acc, for the gradient of the bias; null: not wanted
  int64_t N, C;
  int64_t shares;  ///< of the rows, at most N
  DropoutMask mask;
  cuda::Dtype dtype;
};

/// Into how many shares the rows are split: few where sums over rows are taken.
int64_t gelu_dropout_shares(int64_t N, int64_t C, bool summed, cuda::Dtype dtype);
void launch_gelu_dropout_forward(const GeluDropoutParams& params, cudaStream_t stream);
void launch_gelu_dropout_backward(const GeluDropoutParams& params, cudaStream_t stream);

}  // namespace memformer::ops
