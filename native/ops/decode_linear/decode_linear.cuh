// The contract of the decoding step's product. acc is float, double for float64.
// Letters: R rows, K numbers of a row, N columns of the result.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"
#include "ops/decode_linear/decode_shares.h"

namespace memformer::ops {

struct DecodeLinearParams {
  const void* x;             ///< (R, K) of dtype; with a norm the stream, (R, K) float
  const void* branch;        ///< (R, K), added to the stream; null: none
  const float* shares;       ///< (R, kDecodeShares, K), the branch in shares; null: it is none, or made at once
  const void* branch_bias;   ///< (K); null: none
  const float* norm_weight;  ///< (K); null: no norm, x is multiplied as it is
  const float* norm_bias;    ///< (K)
  const void* weight;        ///< (N, K)
  const void* bias;          ///< (N); null: none
  float* sum;                ///< (R, K): stream + branch; without one it is not written
  void* y;                   ///< (R, N) of dtype, or of float
  int64_t R, K, N;
  float eps;
  bool gelu;
  bool widened;  ///< y is of float, and holds what is rounded to dtype
  bool settled;  ///< whether weight, its bias, the norm's and the branch's were there before the kernel ahead began
  cuda::Dtype dtype;
};

/// Numbers of a row that the norm before a product can hold.
constexpr int64_t kMostNormed = 1024;

/// Rows up to which the product norms them itself; each of its blocks norms them anew, so that more are normed before.
constexpr int64_t kMostNormedRows = 16;

struct DecodeNormParams {
  DecodeLinearParams rows;  ///< that fit tensor cores, with a norm and no shares; without weight, bias and y
  void* normed;             ///< (R, K) of dtype
};

/// sum, and the norm as launch_decode_linear_on_tensor_cores makes it.
void launch_decode_norm(const DecodeNormParams& params, cudaStream_t stream);

/// Whether launch_decode_linear_on_tensor_cores takes these: two bytes a number, K a multiple of 32 (with a norm at
/// most kMostNormed), rows of x, branch, shares and weight at multiples of 16 bytes.
bool fits_tensor_cores(const DecodeLinearParams& params);
void launch_decode_linear_on_tensor_cores(const DecodeLinearParams& params, cudaStream_t stream);
/// Any dtype and K; no norm.
void launch_decode_linear(const DecodeLinearParams& params, cudaStream_t stream);

struct DecodeAddSharesParams {
  const float* shares;  ///< (R, kDecodeShares, N)
  void* y;              ///< (R, N): the shares' sum in their order
  int64_t R, N;
  cuda::Dtype dtype;
};

void launch_decode_add_shares(const DecodeAddSharesParams& params, cudaStream_t stream);

}  // namespace memformer::ops
