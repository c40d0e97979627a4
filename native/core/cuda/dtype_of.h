// From LibTorch's name of a dtype to the kernels' name.
#pragma once
#include "core/cuda/dtype.cuh"
#include "core/failure.h"
#include "core/torch.h"

namespace memformer::cuda {

inline Dtype dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Dtype::f32;
    case at::kDouble:
      return Dtype::f64;
    case at::kBFloat16:
      return Dtype::bf16;
    case at::kHalf:
      return Dtype::f16;
    default:
      break;
  }
  require(false, "DTYPE", "the CUDA kernels take float32, float64, bfloat16 or float16, got ", c10::toString(type));
  return Dtype::f32;
}

inline Dtype dtype_of(const at::Tensor& tensor) { return dtype_of(tensor.scalar_type()); }

}  // namespace memformer::cuda
