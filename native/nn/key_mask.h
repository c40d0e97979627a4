// Which keys attention may see. Without padding there is no mask at all, and the kernels without one run.
#pragma once
#include "core/torch.h"

namespace memformer::nn {

class KeyMask {
 public:
  KeyMask() = default;
  /// tokens (B, T): real where not negative. `padded` false: the caller knows that all are real.
  KeyMask(const at::Tensor& tokens, bool padded) {
    if (!padded || tokens.is_floating_point()) return;
    real_ = tokens.ge(0);
    // A row of padding alone would have no key at all: it sees its first one, and nobody looks at the result.
    const auto first = at::arange(tokens.size(1), tokens.options()).eq(0);
    visible_ = real_.logical_or(first.logical_and(real_.any(1, true).logical_not()));
  }

  bool none() const { return !real_.defined(); }
  /// (B, T) bool: the token is no padding. Undefined when none().
  const at::Tensor& real() const { return real_; }

  /// For scaled_dot_product_attention, true where query i may see key j: (B, 1, 1, T), with `causal` (B, 1, T, T).
  at::Tensor attention(bool causal) const {
    auto mask = visible_.unsqueeze(1).unsqueeze(1);
    if (!causal) return mask;
    const int64_t T = visible_.size(1);
    // The diagonal stays visible, so that a padded query has a key.
    const auto ones = at::ones({T, T}, visible_.options());
    return mask.logical_and(ones.tril()).logical_or(at::eye(T, visible_.options()));
  }

 private:
  at::Tensor real_, visible_;
};

}  // namespace memformer::nn
