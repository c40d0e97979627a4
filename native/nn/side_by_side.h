// Work in two parts that may run at the same time.
#pragma once
#include <functional>

#include "core/cuda.h"

namespace memformer::nn {

/// Both, the first before the second; neither may read what the other writes. On a GPU, without gradient and where
/// `tokens` are few, they run side by side: a kernel over few tokens leaves most of it idle.
inline void side_by_side(const at::Tensor& tokens, const std::function<void()>& first,
                         const std::function<void()>& second) {
  constexpr int64_t kFew = 1024;
  if (at::GradMode::is_enabled() || !tokens.is_cuda() || tokens.numel() > kFew) {
    first();
    second();
    return;
  }
  cuda()->side_by_side(2, [&](int64_t part) { part == 0 ? first() : second(); });
}

}  // namespace memformer::nn
