// How large a block of attention's kernels for short segments is, for those who choose and for those who launch.
#pragma once

namespace memformer::ops {

/// Queries and keys that a block has room for, of N and M: at most 128 each.
constexpr int attention_rows(int N, int M) { return N <= 64 && M <= 64 ? 64 : 128; }

/// Bytes of shared memory that backward asks for: q, k, v and the gradient, and the weights. Rows are padded by 16 bytes.
constexpr int attention_block_bytes(int rows, int E) { return 4 * rows * (E + 8) * 2 + rows * (rows + 8) * 2; }

}  // namespace memformer::ops
