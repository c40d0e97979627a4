// The contract of add_norm's kernels: N rows of D >= 1 numbers, contiguous. x, weight, bias, sum and their gradients
// have x_dtype: any; branch, its bias and their gradients branch_dtype; normed and its gradient dtype. Beside a float32
// x these two may be float32 or one narrow dtype, else all three are the same. acc is float, double for float64.
// Letters: N rows, D width.
#pragma once
#include <cuda_runtime_api.h>

#include "core/cuda/dtype.cuh"
#include "ops/common/dropout_mask.cuh"

namespace memformer::ops {

struct AddNormForwardParams {
  const void* x;            ///< (N, D)
  const void* branch;       ///< (N, D); null: none, and sum is not written
  const void* branch_bias;  ///< (D); null: none
  const void* weight;       ///< (D)
  const void* bias;         ///< (D)
  void* sum;                ///< (N, D)
  void* normed;             ///< (N, D)
  void* mean;               ///< (N) acc
  void* rstd;               ///< (N) acc
  int64_t N, D;
  double eps;
  DropoutMask mask;
  cuda::Dtype x_dtype, branch_dtype, dtype;
};

struct AddNormBackwardParams {
  const void* grad_sum;     ///< (N, D); null: 0
  const void* grad_normed;  ///< (N, D); null: 0
  const void* sum;          ///< (N, D)
  const void* mean;         ///< (N) acc
  const void* rstd;         ///< (N) acc
  const void* weight;       ///< (D)
  void* grad_x;             ///< (N, D)
  void* grad_branch;        ///< (N, D); null: not wanted
  void* partials;  ///< (add_norm_shares(N, D, x_dtype), 2 or 3, D) acc: the shares' sums for weight, bias and branch's
                   ///< bias
  bool sums_branch;  ///< whether there are three
  int64_t N, D;
  DropoutMask mask;
  cuda::Dtype x_dtype, branch_dtype, dtype;
};

void launch_add_norm_forward(const AddNormForwardParams& params, cudaStream_t stream);
int64_t add_norm_shares(int64_t N, int64_t D, cuda::Dtype x_dtype);
void launch_add_norm_backward(const AddNormBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
