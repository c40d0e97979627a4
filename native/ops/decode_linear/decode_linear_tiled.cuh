// The product of many columns or many rows, for the code that chooses between kernels.
#pragma once
#include "ops/decode_linear/decode_linear.cuh"

namespace memformer::ops {

/// Launches it, of inputs that fit tensor cores: false where there is no such kernel, for an inner axis other than 256
/// and 512, for more than 16 rows with a norm, and for a GPU whose blocks have too little shared memory.
bool launch_decode_tiled(const DecodeLinearParams& params, cudaStream_t stream);

}  // namespace memformer::ops
