// Sizes that feed_forward's Hopper kernels take, for the code that chooses a kernel and the code that launches it.
#pragma once
#include <cstdint>

namespace memformer::ops {

/// Of D: a block keeps 128 columns of a weight in shared memory.
constexpr int64_t kFeedForwardMostWidth = 512;

/// Whether N rows of D numbers with F inner ones are worth a kernel, and are such as it can read.
constexpr bool feed_forward_fits(int64_t N, int64_t D, int64_t F) {
  constexpr int64_t kLeastRows = 256, kLeast = 64, kMost = int64_t{1} << 30;
  return N >= kLeastRows && N <= kMost && D >= kLeast && D <= kFeedForwardMostWidth && D % 8 == 0 && F >= kLeast &&
         F <= kMost && F % 8 == 0;
}

}  // namespace memformer::ops
