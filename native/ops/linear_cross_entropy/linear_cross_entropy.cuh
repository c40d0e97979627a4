// The contract of linear_cross_entropy's kernels: rows of V >= 1 logits, contiguous, of one dtype; acc is float, double for float64.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

/// One chunk of rows.
struct CrossEntropyParams {
  void* logits;           ///< (rows, V)
  const int64_t* target;  ///< (rows), negative: not scored; below V
  void* lse;              ///< (rows) acc: logsumexp of the logits, written by the forward kernel, read by the backward one
  void* loss;             ///< (rows) acc: lse - logits[target], 0 where not scored; unused in the backward pass
  const void* grad;       ///< (G) acc: of the groups' summed losses; unused in the forward pass
  int64_t first, share;   ///< the chunk's first row among all, and the rows of a group
  int64_t rows, V;
  cuda::Dtype dtype;
};

/// All rows: the sums of their groups' losses, and how many are scored.
struct CrossEntropySumParams {
  const void* losses;     ///< (groups share) acc
  const int64_t* target;  ///< (groups share)
  void* loss;             ///< (groups) acc
  int64_t* count;         ///< (groups)
  int64_t groups, share;
  cuda::Dtype dtype;
};

void launch_cross_entropy_forward(const CrossEntropyParams& params, cudaStream_t stream);
void launch_cross_entropy_sum(const CrossEntropySumParams& params, cudaStream_t stream);
/// logits become dL/dlogits = (softmax(logits) - [v = target]) grad, 0 in rows that are not scored.
void launch_cross_entropy_backward(const CrossEntropyParams& params, cudaStream_t stream);

}  // namespace memformer::ops
