// The contract of dropout's kernel: `count` numbers of one dtype, contiguous.
#pragma once
#include <cuda_runtime_api.h>

#include "core/cuda/dtype.cuh"
#include "ops/common/dropout_mask.cuh"

namespace memformer::ops {

struct DropoutParams {
  const void* x;
  void* y;
  int64_t count;
  DropoutMask mask;
  cuda::Dtype dtype;
};

void launch_dropout(const DropoutParams& params, cudaStream_t stream);

}  // namespace memformer::ops
