// Two fused Hopper kernels: GEMM + bias + GELU (forward), and GEMM + GELU backward + bias gradient. bfloat16 or
// float16; row-major matrices, each aligned to 16 bytes, with sizes that feed_forward_fits accepts, for any number of
// rows. For compute capability 9.0 alone: elsewhere they trap.
// Letters: N rows, D width, F width inside the layer.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct FeedForwardParams {
  const void* x;       ///< (N, D); in the backward pass the gradient of the result
  const void* weight;  ///< (F, D) up; in the backward pass (D, F) down
  const void* bias;    ///< (F) of up
  void* pre;           ///< (N, F) x up^T, written by the forward pass, null: not wanted; read by the backward pass
  void* out;           ///< (N, F) gelu(pre + bias), or the gradient of pre
  float* partials;     ///< (shares, F) of the gradient of bias; null in the forward pass
  int64_t N, D, F;
  int shares;         ///< of the rows, by feed_forward_shares
  cuda::Dtype dtype;  ///< bf16 or f16
};

/// Into how many shares the rows are split to fill the current device.
int feed_forward_shares(int64_t N, int64_t F);
/// Both do nothing where N or F is 0. What they return is what building maps or the launch failed with.
cudaError_t launch_feed_forward_forward(const FeedForwardParams& params, cudaStream_t stream);
cudaError_t launch_feed_forward_backward(const FeedForwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
