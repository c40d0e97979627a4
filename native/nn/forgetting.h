// Forgetting: what happens to the slots after they were written, and what they are at time 0.
//   bmn              m <- (m + v) / max(||m + v||, eps)      m_0 = v / ||v||      v learned, (M, D): `writer.v_bias`
//   normalize-only   m <- m / max(||m||, eps)                m_0 = w / ||w||      w learned, (M, D): `writer.initial`
//   none             m                                       m_0 = w
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
  /// The memory at time 0, (M, D).
  at::Tensor initial() const;
  /// memory (B, M, D) -> (B, M, D). Rows with reset (B) bool, if it is given, become what they are at time 0. lengths (B) int32, if it is
  /// given: other rows of length 0 stay as they are.
  at::Tensor operator()(const at::Tensor& memory, const at::Tensor& reset = {}, const std::optional<at::Tensor>& lengths = {}) const;
  /// Rows with reset (B) bool, if it is given, become what they are at time 0, and send their gradient there; others stay.
  at::Tensor restart(const at::Tensor& memory, const at::Tensor& reset) const;

 private:
  enum class Kind { bmn, normalize_only, none };
  Kind kind_;
  at::Tensor slots_;  // v or w
};

}  // namespace memformer::nn
