// Forgetting: what happens to the slots after they were written, and what they are at time 0.
//   bmn              m <- (m + v) / max(||m + v||, eps)      m_0 = v / ||v||      v learned, (M, D): `writer.v_bias`
//                    A slot that keeps all it holds loses half of it in ln 2 / ln(1 + ||v||) segments. At the start
//                    ||v_i|| runs from forgettingBias (slot 0) to forgettingBiasLeast (the last), evenly in its
//                    logarithm. With forgettingScaled these norms s_i are no part of the parameter w ~ N(0, 1 / D): v_i
//                    = s_i w_i, so a small v does not turn faster than a large one.
//   normalize-only   m <- m / max(||m||, eps)                m_0 = w / ||w||      w learned, (M, D): `writer.initial`
//   none             m                                       m_0 = w
// Letters: B batch, M slots, D width.
#pragma once
#include "nn/config.h"
#include "nn/parameters.h"

namespace memformer::nn {

class Forgetting {
 public:
  static constexpr double kEps = 1e-6;

  Forgetting(Parameters& parameters, const Config& config);
  /// (M, D).
  at::IntArrayRef size() const { return slots_.sizes(); }
  /// Of the memory, as of the parameters.
  at::ScalarType dtype() const { return slots_.scalar_type(); }
  /// The memory at time 0, (M, D).
  at::Tensor initial() const;
  /// memory (B, M, D) -> (B, M, D). Rows with reset (B) bool, if it is given, become what they are at time 0. lengths
  /// (B) int32, if it is given: other rows of length 0 stay as they are.
  at::Tensor operator()(const at::Tensor& memory, const at::Tensor& reset = {},
                        const std::optional<at::Tensor>& lengths = {}) const;
  /// Rows with reset (B) bool, if it is given, become what they are at time 0, and send their gradient there; others
  /// stay.
  at::Tensor restart(const at::Tensor& memory, const at::Tensor& reset) const;

 private:
  enum class Kind { bmn, normalize_only, none };
  Kind kind_;
  at::Tensor bias() const;

  at::Tensor slots_;  // v or w
  mutable at::Tensor
      scale_;  // (M, 1), what makes v of it; undefined: 1. Moved to the parameters' device when it is first used
};

}  // namespace memformer::nn
