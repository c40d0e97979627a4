// The contract of linear_cross_entropy's kernels: rows of V >= 1 logits, contiguous, of one dtype, in G equal groups;
// acc is float, double for float64.
// Letters: G segments.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

/// What the groups' rows count: before the logits.
struct CrossEntropyCountParams {
  const int64_t* target;     ///< (groups share), negative: not scored
  const void* loss_weights;  ///< (groups) acc
  int64_t* count;            ///< (groups), the scored rows
  void* factors;             ///< (groups) acc: loss_weights / max(count, 1)
  int64_t groups, share;
  cuda::Dtype dtype;
};

/// One chunk of rows.
struct CrossEntropyParams {
  void* logits;           ///< (rows, V)
  const int64_t* target;  ///< (rows), negative: not scored; below V
  void* loss;             ///< (rows) acc: logsumexp(logits) - logits[target], 0 where not scored
  const void* factors;    ///< (G) acc, or null: no gradient is wanted
  int64_t first, share;   ///< the chunk's first row among all, and the rows of a group
  int64_t rows, V;
  cuda::Dtype dtype;
};

/// All rows: their groups' mean losses, and what these are together.
struct CrossEntropySumParams {
  const void* losses;        ///< (groups share) acc
  const int64_t* count;      ///< (groups)
  const void* loss_weights;  ///< (groups) acc
  void* loss;                ///< (groups) acc: mean over the scored rows, 0 without any
  void* total;               ///< () acc
  int64_t groups, share;
  cuda::Dtype dtype;
};

void launch_cross_entropy_count(const CrossEntropyCountParams& params, cudaStream_t stream);
/// With factors, the logits become (softmax(logits) - [v = target]) factor, 0 in rows that are not scored.
void launch_cross_entropy(const CrossEntropyParams& params, cudaStream_t stream);
void launch_cross_entropy_sum(const CrossEntropySumParams& params, cudaStream_t stream);

}  // namespace memformer::ops
