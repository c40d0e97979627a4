// Matrix descriptors for Hopper's copy engine, made on the host and passed to kernels by value.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::cuda {

/// What a box of a map holds beside each other: 128 bytes, which are swizzled.
constexpr int kBoxColumns = 64;

/// `map` of data (rows, columns), bfloat16 or float16, row by row, for boxes of box_rows x kBoxColumns. The data and
/// its rows begin at multiples of 16 bytes, box_rows is at most 256, rows is not 0. Fails with cudaErrorNotSupported
/// where the driver has no such maps, with cudaErrorInvalidValue where it refuses this one.
cudaError_t make_tensor_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns, int box_rows,
                            Dtype dtype);

}  // namespace memformer::cuda
