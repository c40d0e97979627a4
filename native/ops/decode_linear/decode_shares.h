// A product whose inner axis is cut into shares, before these are added: (..., kDecodeShares, N) float. The kernel that
// reads it next adds them in their order, from zero, and rounds: the bits of the product made at once.
#pragma once
#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "core/failure.h"

namespace memformer::ops {

constexpr int kDecodeShares = 8;

/// Rows of a step that kernels hand on in shares, for each reader adds them again; more are products made at once. 0:
/// never. Throws CONFIG for what is no such number.
inline int64_t most_shared_rows() {
  static const int64_t most = [] {
    const char* set = std::getenv("MEMFORMER_DECODE_SHARED_ROWS");
    if (set == nullptr) return int64_t{8};
    char* end = nullptr;
    errno = 0;
    const int64_t rows = std::strtoll(set, &end, 10);
    require(end != set && *end == '\0' && errno == 0 && rows >= 0, "CONFIG",
            "MEMFORMER_DECODE_SHARED_ROWS must be a number of rows, 0 or more, got \"", set, "\"");
    return rows;
  }();
  return most;
}

}  // namespace memformer::ops
