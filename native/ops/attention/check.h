// What attention asks of its mask, and rotary_attention too.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

/// Of `op`, for B rows of N queries and M keys.
inline void check_attention_mask(const char* op, const std::optional<at::Tensor>& mask, bool causal, int64_t B, int64_t N, int64_t M,
                                 const at::Tensor& like) {
  require(!causal || N == M, "SHAPE", op, ": causal needs as many keys as queries, got ", M, " and ", N);
  if (!mask.has_value() || !mask->defined()) return;
  require_dtype(op, "mask", *mask, at::kBool);
  const bool fits = mask->dim() == 4 && (mask->size(0) == B || mask->size(0) == 1) && mask->size(1) == 1 &&
                    (mask->size(2) == N || mask->size(2) == 1) && mask->size(3) == M;
  require(fits, "SHAPE", op, ": mask must have shape (", B, " or 1, 1, ", N, " or 1, ", M, "), got ", mask->sizes());
  require(mask->device() == like.device(), "DEVICE_MISMATCH", op, ": mask must be on ", like.device().str(), ", got ", mask->device().str());
}

}  // namespace memformer::ops
