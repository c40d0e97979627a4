// Work in parts that may run at the same time.
#pragma once
#include <functional>
#include <vector>

#include "core/cuda.h"

namespace memformer::nn {

using Part = std::function<void()>;

/// All of them, one after the other; none may read what another writes, nor let go of a tensor that another made. On a
/// GPU, without gradient and where `tokens` are few, they run side by side: a kernel over few tokens leaves most of it
/// idle.
inline void side_by_side(const at::Tensor& tokens, const std::vector<Part>& parts) {
  constexpr int64_t kFew = 1024;
  if (parts.size() == 1 || at::GradMode::is_enabled() || !tokens.is_cuda() || tokens.numel() > kFew) {
    for (const auto& part : parts) part();
    return;
  }
  cuda()->side_by_side(static_cast<int64_t>(parts.size()), [&](int64_t i) { parts[static_cast<size_t>(i)](); });
}

}  // namespace memformer::nn
