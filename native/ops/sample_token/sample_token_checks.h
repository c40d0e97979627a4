// What sample_token asks of its arguments, on a CPU and on a GPU.
#pragma once
#include <cmath>

#include "core/tensor_checks.h"

namespace memformer::ops {

inline void check_sample_token(const at::Tensor& logits, const at::Tensor& draws, double temperature, int64_t top_k,
                               double top_p) {
  constexpr const char* op = "sample_token";
  require_floating(op, "logits", logits);
  require_shape(op, "logits", logits, {-1, -1});
  require_dtype(op, "draws", draws, at::kDouble);
  require_shape(op, "draws", draws, {logits.size(0)});
  require(temperature >= 0 && std::isfinite(temperature), "CONFIG", op, ": temperature must be at least 0, got ",
          temperature);
  require(top_k >= 0, "CONFIG", op, ": top_k must be at least 0, got ", top_k);
  require(top_p > 0 && top_p <= 1, "CONFIG", op, ": top_p must be above 0 and at most 1, got ", top_p);
}

}  // namespace memformer::ops
