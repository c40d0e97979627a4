// Teacher forcing: a causal stack's input is its target, moved right by one behind a first token.
// Letters: B batch, T tokens of a segment.
#pragma once
#include "core/torch.h"

namespace memformer::nn {

/// first (B, 1), target (B, T) -> (B, T): [first, target without its last]. Padding inside stays padding.
inline at::Tensor shifted(const at::Tensor& first, const at::Tensor& target) {
  return at::cat({first, target.narrow(1, 0, target.size(1) - 1)}, 1);
}

/// The last token of each row of source (B, T) that is no padding, `bos` where there is none: (B, 1).
inline at::Tensor last_token(const at::Tensor& source, int64_t bos) {
  const auto position = at::arange(1, source.size(1) + 1, source.options());
  const auto last = (source.ge(0).to(at::kLong) * position).amax(1, true);  // 1-based, 0: none
  return at::where(last.gt(0), source.gather(1, (last - 1).clamp_min(0)), at::full_like(last, bos));
}

}  // namespace memformer::nn
