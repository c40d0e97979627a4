// Each row's tokens brought to its front, for models to which padding between tokens is as if it were not there. Behind
// the tokens a length tells all; padding anywhere else is moved there first, and the outputs are moved back.
// Letters: B batch, T tokens of a segment, D width.
#pragma once
#include "nn/key_mask.h"

namespace memformer::nn {

class RealFirst {
 public:
  explicit RealFirst(const KeyMask& mask) {
    if (mask.lengths()) lengths_ = *mask.lengths();
    if (!mask.real()) return;
    order_ = mask.real()->logical_not().to(at::kByte).argsort(/*stable=*/true, 1);
    place_ = order_.argsort(/*stable=*/true, 1);
    lengths_ = mask.real()->sum(1, false, at::kInt);
  }

  /// (B) int32, tokens of each row; undefined: T.
  const at::Tensor& lengths() const { return lengths_; }
  /// tokens (B, T) -> (B, T), each row's first.
  at::Tensor operator()(const at::Tensor& tokens) const { return order_.defined() ? tokens.gather(1, order_) : tokens; }
  /// hidden (B, T, D), the outputs of such rows -> (B, T, D), each where its token was.
  at::Tensor back(const at::Tensor& hidden) const {
    return place_.defined() ? hidden.gather(1, place_.unsqueeze(2).expand_as(hidden)) : hidden;
  }

 private:
  at::Tensor lengths_, order_, place_;
};

}  // namespace memformer::nn
