// Checks of the mask and lengths of attention and rotary_attention, and the mask that lengths stand for.
// Letters: B batch, N queries, M keys.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

/// Of `op`, for B rows of N queries and M keys.
inline void check_attention_mask(const char* op, const std::optional<at::Tensor>& mask, bool causal,
                                 const std::optional<at::Tensor>& lengths, int64_t B, int64_t N, int64_t M,
                                 const char* like_name, const at::Tensor& like) {
  require(!causal || N == M, "SHAPE", op, ": causal needs as many keys as queries, got ", M, " and ", N);
  require_lengths(op, lengths, B, like_name, like);
  const bool both = mask.has_value() && mask->defined() && lengths.has_value() && lengths->defined();
  require(!both, "CONFIG", op, ": takes a mask or lengths, got both");
  if (!mask.has_value() || !mask->defined()) return;
  require_dtype(op, "mask", *mask, at::kBool);
  const bool fits = mask->dim() == 4 && (mask->size(0) == B || mask->size(0) == 1) && mask->size(1) == 1 &&
                    (mask->size(2) == N || mask->size(2) == 1) && mask->size(3) == M;
  require(fits, "SHAPE", op, ": mask must have shape (", B, " or 1, 1, ", N, " or 1, ", M, "), got ", mask->sizes());
  require(mask->device() == like.device(), "DEVICE_MISMATCH", op, ": mask must be on ", like.device().str(), ", got ",
          mask->device().str());
}

/// `mask`, or the one that `lengths` stand for, (B, 1, 1, M), with `causal` (B, 1, M, M): for code that knows masks
/// alone.
inline std::optional<at::Tensor> mask_of(const std::optional<at::Tensor>& mask, bool causal,
                                         const std::optional<at::Tensor>& lengths, int64_t M) {
  if (!lengths.has_value() || !lengths->defined()) return mask;
  const auto seen = first_tokens(lengths->clamp_min(1), M).unsqueeze(1).unsqueeze(1);
  return causal ? seen.logical_and(at::ones({M, M}, seen.options()).tril_()) : seen;
}

}  // namespace memformer::ops
