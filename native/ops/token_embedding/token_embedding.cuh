// The contract of token_embedding's kernels: N tokens, each a row of D numbers, all contiguous. A negative token is
// read as 0; none is V or more. N and V are below 2^31.
// Letters: N tokens, V vocabulary, D width.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct TokenEmbeddingForwardParams {
  const int64_t* tokens;  ///< (N)
  const void* weight;     ///< (V, D)
  void* y;                ///< (N, D)
  int64_t N, D;
  cuda::Dtype dtype;
};

struct TokenEmbeddingBackwardParams {
  const int64_t* tokens;  ///< (N)
  const void* grad;       ///< (N, D)
  void* sink;             ///< (V, D) float, double for float64; added to
  int* sorted;            ///< (N), to work in: the tokens in ascending order,
  int* places;            ///< (N), to work in: and where each stands
  int64_t N, D;
  cuda::Dtype dtype;
};

void launch_token_embedding_forward(const TokenEmbeddingForwardParams& params, cudaStream_t stream);
void launch_token_embedding_backward(const TokenEmbeddingBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
