// Block sizes of attention's kernels, for the code that chooses a kernel and the code that launches it.
// Letters: N queries, M keys, E width of a head.
#pragma once
#include <cstdint>

namespace memformer::ops {

/// Queries and keys that a block has room for, of N and M: at most 128 each.
constexpr int attention_rows(int N, int M) { return N <= 64 && M <= 64 ? 64 : 128; }

/// Bytes of shared memory that backward asks for: q, k, v and the gradient, the weights, and two numbers a row. Rows of
/// matrices are padded by 16 bytes.
constexpr int attention_block_bytes(int rows, int E) {
  return 4 * rows * (E + 8) * 2 + rows * (rows + 8) * 2 + 2 * rows * 4;
}

/// Backward with one long side: rows of the short one that a block has room for, and of the long one that are with it
/// at a time.
constexpr int kShortRows = 128, kLongTile = 64;

/// Bytes of shared memory that it asks for: two matrices of the short side, either four tiles and the weights and their
/// gradients, or six tiles and one of those; two numbers a row.
constexpr int cross_attention_bytes(int E) {
  return (2 * kShortRows + 4 * kLongTile) * (E + 8) * 2 + 2 * kShortRows * (kLongTile + 8) * 2 + 4 * kLongTile * 4;
}

/// Whether backward with one long side is for `heads` heads in all of E numbers. A block takes a head, however long:
/// few long ones would leave most of a GPU idle, and are better split over it, as LibTorch does.
constexpr bool cross_attention_fits(int64_t heads, int64_t shorter, int64_t longer, int64_t E, int64_t block_memory) {
  return (E == 32 || E == 64) && heads > 0 && shorter >= 1 && shorter <= kShortRows && longer >= 1 &&
         longer <= 16 * kLongTile * heads && cross_attention_bytes(static_cast<int>(E)) <= block_memory;
}

/// Forward over many keys without gradient: keys of a block, and blocks of a head at most, which form a cluster.
constexpr int kSplitKeys = 128, kMostSplits = 8;

/// Whether it is for `heads` heads in all: blocks enough to fill a GPU twice over are better off with a kernel that
/// takes a head's keys one after the other.
constexpr bool split_attention_fits(int64_t heads, int64_t N, int64_t M, int64_t E) {
  return (E == 32 || E == 64) && N >= 1 && N <= 128 && M > kSplitKeys && M <= kMostSplits * kSplitKeys && heads > 0 &&
         heads * ((M + kSplitKeys - 1) / kSplitKeys) <= 256;
}

}  // namespace memformer::ops
