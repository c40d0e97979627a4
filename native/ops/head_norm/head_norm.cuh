// The contract of head_norm's kernels: `chunks` chunks of E numbers, contiguous; of every `group` the first `normed`
// are normed. acc is float, double for double.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct HeadNormParams {
  const void* x;      ///< (chunks, E); may be y
  void* y;            ///< (chunks, E)
  void* r;            ///< (chunks / group, normed) acc
  const void* gains;  ///< (normed) acc; null: 1
  int64_t chunks, E, group, normed;
  double gain;
  cuda::Dtype dtype;
};

struct HeadNormBackwardParams {
  const void* grad;   ///< (chunks, E)
  const void* y;      ///< (chunks, E); with gains x
  const void* r;      ///< (chunks / group, normed) acc
  void* sent;         ///< (chunks, E)
  const void* gains;  ///< (normed) acc; null: 1, and dots is not written
  void* dots;         ///< (chunks / group, normed) acc: dL/dgain of every chunk
  int64_t chunks, E, group, normed;
  double gain;
  cuda::Dtype dtype;
};

void launch_head_norm(const HeadNormParams& params, cudaStream_t stream);
void launch_head_norm_backward(const HeadNormBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
