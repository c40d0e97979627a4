// Which tokens of a segment are real, and therefore which keys attention may see. Padding after each row's tokens is
// one number per row, which kernels take; padding before or between tokens is a mask, on slower paths.
// Letters: B batch, T tokens of a segment, D width.
#pragma once
#include "core/tensor_checks.h"
#include "core/torch.h"

namespace memformer::nn {

class KeyMask {
 public:
  using Optional = std::optional<at::Tensor>;

  /// All are real.
  KeyMask() = default;
  /// tokens (B, T), real where not negative; lengths (B) int32, if it is defined: real are each row's first. Without
  /// lengths tokens that are floating, (B, T, D), are all real.
  KeyMask(const at::Tensor& tokens, const at::Tensor& lengths) {
    const int64_t T = tokens.size(1);
    if (lengths.defined()) {
      // On a GPU nobody looks: the kernels take lengths at no cost, and a step is recorded once for all of them.
      if (!lengths.is_cpu() || lengths.lt(T).any().item<bool>()) lengths_ = lengths;
    } else if (!tokens.is_floating_point()) {
      real_ = tokens.ge(0);
    }
  }

  /// visible (B or 1, 1, T, T) bool, true where query i may see key j, whatever `causal` is: for sequences that are
  /// more than a segment's tokens. It is asked for attention() alone.
  static KeyMask of_pairs(at::Tensor visible) {
    KeyMask mask;
    mask.pairs_ = std::move(visible);
    return mask;
  }

  bool none() const { return !lengths_ && !real_ && !pairs_; }
  /// (B) int32, for operators that take lengths.
  const Optional& lengths() const { return lengths_; }
  /// (B, T) bool where padding may lie anywhere, for operators that take a mask beside lengths.
  const Optional& real() const { return real_; }
  /// (B, T) bool: the token is real. Not to be asked when none().
  at::Tensor tokens(int64_t T) const { return lengths_ ? first_tokens(*lengths_, T) : *real_; }
  /// (B) bool: the row has a token. Not to be asked when none().
  at::Tensor has_tokens() const { return lengths_ ? lengths_->gt(0) : real_->any(1); }

  /// For self-attention's operators: what hides keys beside `causal`. Behind a row's tokens nothing is left to hide
  /// where that is on.
  Optional lengths(bool causal) const { return causal ? std::nullopt : lengths_; }

  /// For attention's operators where padding may lie anywhere, true where query i may see key j: (B, 1, 1, T), with
  /// `causal` (B, 1, T, T).
  Optional attention(bool causal) const {
    if (pairs_) return pairs_;
    if (!real_) return std::nullopt;
    const int64_t T = real_->size(1);
    // A row of padding alone has no key at all: it sees its first one, and nobody looks at the result.
    const auto first = at::arange(T, real_->options().dtype(at::kLong)).eq(0);
    const auto visible =
        real_->logical_or(first.logical_and(real_->any(1, true).logical_not())).unsqueeze(1).unsqueeze(1);
    if (!causal) return visible;
    // The diagonal stays visible, so that a padded query has a key.
    const auto ones = at::ones({T, T}, real_->options());
    return visible.logical_and(ones.tril()).logical_or(at::eye(T, real_->options()));
  }

 private:
  Optional lengths_, real_, pairs_;
};

}  // namespace memformer::nn
