// The contract of drawing on a GPU.
// Letters: B rows, V vocabulary.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct SampleTokenParams {
  const void* logits;   ///< (B, V): float, bfloat16 or float16
  const double* draws;  ///< (B)
  int64_t* tokens_out;  ///< (B)
  int64_t B;
  int V;
  int tokens, also, top_k;  ///< as sample_token's; `also` may lie outside V, top_k 0: all
  double temperature, top_p;
  cuda::Dtype dtype;
};

/// The largest vocabulary: a block holds the masses of a row.
constexpr int kMostSampled = 56 * 1024;

void launch_sample_token(const SampleTokenParams& params, cudaStream_t stream);

}  // namespace memformer::ops
