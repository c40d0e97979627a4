// A product whose inner axis is cut into shares, before these are added: (..., kDecodeShares, N) float. The kernel that
// reads it next adds them in their order, from zero, and rounds: the bits of the product made at once.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace memformer::ops {

constexpr int kDecodeShares = 8;

/// Rows of a step that kernels hand on in shares, for each reader adds them again; more are products made at once. 0:
/// never.
inline int64_t most_shared_rows() {
  static const int64_t most = [] {
    const char* set = std::getenv("MEMFORMER_DECODE_SHARED_ROWS");
    return set == nullptr ? int64_t{8} : std::strtoll(set, nullptr, 10);
  }();
  return most;
}

}  // namespace memformer::ops
