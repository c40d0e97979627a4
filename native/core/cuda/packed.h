// Tensors that kernels can read 16 bytes at a time.
#pragma once
#include "core/torch.h"

namespace memformer::cuda {

inline bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0; }

/// x one number after the other, from a multiple of 16 bytes on: a copy only where it is not so already.
inline at::Tensor packed(const at::Tensor& x) {
  return x.is_contiguous() && is_aligned(x) ? x : x.clone(at::MemoryFormat::Contiguous);
}

}  // namespace memformer::cuda
