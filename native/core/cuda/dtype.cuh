// The floating dtypes that kernels take. Torch-free, so that parameter structs can name them on both sides of a bridge.
#pragma once

namespace memformer::cuda {

enum class Dtype { f32, f64, bf16, f16 };

}  // namespace memformer::cuda
