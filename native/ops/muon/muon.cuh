// The contract of Muon's kernels: n matrices of `size` numbers in flat buffers. acc is double for float64, else float.
// Letters: N numbers of the parameters' buffers, M of the momenta's.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct MuonMomentumParams {
  void* gradients;         ///< (N) acc; those of the matrices are set to 0
  void* momenta;           ///< (M) acc
  const int64_t* places;   ///< (n, 2): where a matrix begins in gradients, and in momenta
  const void* norm;        ///< () acc
  const void* grad_scale;  ///< () acc; null: 1
  void* u;                 ///< (n, size) of u_dtype
  int64_t n, size, N, M;
  double clip, beta;
  cuda::Dtype dtype, u_dtype;
};

struct MuonStepParams {
  void* values;            ///< (N) acc
  const int64_t* places;   ///< (n, 2), of which the first counts
  const void* directions;  ///< (n, size) of direction_dtype
  const void* norms;       ///< (n) acc: a matrix with 0 stays
  int64_t n, size, N;
  double kept, by;
  cuda::Dtype dtype, direction_dtype;
};

void launch_muon_momentum(const MuonMomentumParams& params, cudaStream_t stream);
void launch_muon_step(const MuonStepParams& params, cudaStream_t stream);

}  // namespace memformer::ops
