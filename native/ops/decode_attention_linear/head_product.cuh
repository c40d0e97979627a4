// What a head has read times its part of the weights behind attention, in shares: a block of `warps` warps takes some
// of the columns. Its part of the weights comes to shared memory before the kernel ahead has ended.
//
// Why the bits are those of decode_linear: a head is 8 / H whole shares of the product's inner axis, and a share's
// terms are added by add_chunk, from zero, chunk by chunk, as decode_linear's warps add them. Here row 0 of the tensor
// cores' tile is the row, there any; a row of their result does not depend on the other rows, nor a column on the other
// columns, which decode_linear rests on as well. Whoever reads the shares adds them in their order and rounds.
// Letters: R rows, D width, H heads.
#pragma once
#include "ops/decode_linear/decode_linear_row.cuh"

namespace memformer::ops {

constexpr int kHead = 64;                          // numbers of a head, E
constexpr int kHeadChunks = kHead / kDecodeChunk;  // of a head

/// `head_shares` of the inner axis a head, `tiles` of 8 columns a warp.
template <typename T, int head_shares, int tiles, int warps>
struct HeadProduct {
  static constexpr int width = kDecodeShares / head_shares * kHead, columns = warps * tiles * 8;
  static constexpr int parts = width / columns;
  static constexpr int share_chunks = kHeadChunks / head_shares;
  static_assert(kHeadChunks % head_shares == 0 && width % columns == 0);

  uint4 weights[warps][tiles * kHeadChunks][cuda::kWarp];  // 16 bytes a lane, read by the lane that has asked for them

  /// Asks for part `part` of the weights (D, D) of head h: they are there behind cuda::arrived(), each to its thread.
  __device__ __forceinline__ void ask(const T* weight, int h, int part) {
    const int warp = threadIdx.x / cuda::kWarp, lane = threadIdx.x % cuda::kWarp, g = lane / 4, t = lane % 4;
    // The lane's part of every chunk: numbers 8 t of column g of a tile.
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int c = 0; c < kHeadChunks; ++c)
        cuda::copy_16_bytes(&weights[warp][n * kHeadChunks + c][lane],
                            weight + (first_column(part) + 8 * n + g) * width + h * kHead + c * kDecodeChunk + 8 * t,
                            16);
  }

  /// shares (R, kDecodeShares, D) of `row`: those of head h, in the part's columns, of what it has `read` (kHead).
  __device__ __forceinline__ void multiply(const T* read, int64_t row, int h, int part, float* shares) const {
    const int warp = threadIdx.x / cuda::kWarp, lane = threadIdx.x % cuda::kWarp, g = lane / 4, t = lane % 4;
    constexpr uint4 none{0, 0, 0, 0};
    uint4 own[kHeadChunks];
#pragma unroll
    for (int c = 0; c < kHeadChunks; ++c)
      own[c] = g == 0 ? *reinterpret_cast<const uint4*>(read + c * kDecodeChunk + 8 * t) : none;
    float* to = shares + (row * kDecodeShares + h * head_shares) * width + first_column(part);
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int share = 0; share < head_shares; ++share) {
        float sums[4] = {};
#pragma unroll
        for (int i = 0; i < share_chunks; ++i) {
          const int c = share * share_chunks + i;
          add_chunk<T>(sums, own[c], none, weights[warp][n * kHeadChunks + c][lane]);
        }
        if (g == 0) *reinterpret_cast<float2*>(to + share * width + 8 * n + 2 * t) = {sums[0], sums[1]};
      }
  }

 private:
  __device__ __forceinline__ static int first_column(int part) {
    return part * columns + static_cast<int>(threadIdx.x) / cuda::kWarp * tiles * 8;
  }
};

}  // namespace memformer::ops
