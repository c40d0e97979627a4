// C = A B by tiles of 128 x 128, for few columns of A. A block keeps its panel, the 128 columns of B for its tiles of
// C, in shared memory as long as it lives, and streams rows of A past it. Of its three warp groups the first moves
// memory, the others take turns with whole tiles: while one multiplies, the other is busy with what follows its last
// tile's product.
//   A (N, K), K <= 512      B (K, F) or B^T (F, K)      tile i of a block: rows 128 (share + i shares), of N / 128 of
//   which there are `tiles`
// Letters: N rows, K width, F feed-forward width.
#pragma once
#include "core/cuda/wgmma.cuh"
#include "ops/feed_forward/feed_forward_fits.h"

namespace memformer::ops {

struct Panel {
  static constexpr int kRows = 128, kColumns = 128;  // of a tile
  static constexpr int kSlice = 64;                  // of K, multiplied at once
  static constexpr int kSlices = kFeedForwardMostWidth / kSlice,
                       kStages = 4;  // of B, all; of A, on their way or in use
  static constexpr int kSliceBytes = kRows * kSlice * 2;
  static constexpr int kGroup = 128, kThreads = 3 * kGroup, kWorkers = 2;
  // Results leave, and what the epilogue reads comes, in pieces of 64 x 64, two at a time for each worker.
  static constexpr int kPiece = 64, kPieceBytes = kPiece * kPiece * 2, kPieces = 4, kBuffers = 2;
};

struct PanelMemory {
  alignas(1024) char b[Panel::kSlices][Panel::kSliceBytes];
  char a[Panel::kStages][Panel::kSliceBytes];
  char piece[Panel::kWorkers][Panel::kBuffers][Panel::kPieceBytes];
  float bias[Panel::kColumns];
  cuda::Barrier b_full[Panel::kSlices], a_full[Panel::kStages], a_empty[Panel::kStages];
  cuda::Barrier turn[Panel::kWorkers];  ///< the other's products have all been started
  cuda::Barrier ready[Panel::kWorkers][Panel::kBuffers], written[Panel::kWorkers][Panel::kBuffers];
};

static_assert(sizeof(PanelMemory) <= 227 * 1024, "more shared memory than a block of Hopper has");

/// By one thread; a barrier of the block follows.
__device__ __forceinline__ void init_barriers(PanelMemory& memory) {
  constexpr int kWarps = Panel::kGroup / cuda::kWarp;
  for (auto& barrier : memory.b_full) barrier.init(1);
  for (auto& barrier : memory.a_full) barrier.init(1);
  for (auto& barrier : memory.a_empty) barrier.init(kWarps);
  for (int worker = 0; worker < Panel::kWorkers; ++worker) {
    memory.turn[worker].init(kWarps);
    for (auto& barrier : memory.ready[worker]) barrier.init(1);
    for (auto& barrier : memory.written[worker]) barrier.init(kWarps);
  }
  cuda::fence_barriers();
}

/// What a block has to do.
struct PanelWork {
  int slices, tiles, shares;

  __device__ PanelWork(int64_t N, int64_t K) {
    const int all = static_cast<int>((N + Panel::kRows - 1) / Panel::kRows);
    slices = static_cast<int>((K + Panel::kSlice - 1) / Panel::kSlice);
    shares = static_cast<int>(gridDim.x);
    tiles = (all - static_cast<int>(blockIdx.x) + shares - 1) / shares;
  }
  __device__ int row(int tile) const { return (static_cast<int>(blockIdx.x) + tile * shares) * Panel::kRows; }
  __device__ int column() const { return static_cast<int>(blockIdx.y) * Panel::kColumns; }
};

/// One thread's work: the panel once, and every tile's slices of A as soon as there is room. b_by_columns: B is (K, F),
/// else (F, K).
template <bool b_by_columns>
__device__ __forceinline__ void load_operands(PanelMemory& memory, const CUtensorMap& a, const CUtensorMap& b,
                                              const PanelWork& work) {
  uint32_t count = 0;
  for (int tile = 0; tile < work.tiles; ++tile) {
    for (int slice = 0; slice < work.slices; ++slice, ++count) {
      const int stage = count % Panel::kStages;
      if (tile == 0) {
        auto& full = memory.b_full[slice];
        full.expect(Panel::kSliceBytes);
        if constexpr (b_by_columns) {
          for (int half = 0; half < 2; ++half)
            cuda::load_box(memory.b[slice] + half * Panel::kPieceBytes, b, slice * Panel::kSlice,
                           work.column() + half * Panel::kPiece, full);
        } else {
          cuda::load_box(memory.b[slice], b, work.column(), slice * Panel::kSlice, full);
        }
      }
      memory.a_empty[stage].wait(count / Panel::kStages % 2 ^ 1);
      auto& full = memory.a_full[stage];
      full.expect(Panel::kSliceBytes);
      cuda::load_box(memory.a[stage], a, work.row(tile), slice * Panel::kSlice, full);
    }
  }
}

/// The product of a tile by one worker: sums[h] is its rows from 64 h on.
template <typename T, bool b_by_columns>
__device__ __forceinline__ void multiply(PanelMemory& memory, const PanelWork& work, int worker, int tile,
                                         float (&sums)[2][64]) {
  const int lane = threadIdx.x % cuda::kWarp;
  const auto release = [&](uint32_t count) {
    if (lane == 0) memory.a_empty[count % Panel::kStages].arrive();
  };
  if (tile > 0) memory.turn[worker].wait((tile - 1) / 2 % 2);
  uint32_t count = tile * work.slices;
  cuda::keep_sums(sums[0]);
  cuda::keep_sums(sums[1]);
  for (int slice = 0; slice < work.slices; ++slice, ++count) {
    const int stage = count % Panel::kStages;
    memory.a_full[stage].wait(count / Panel::kStages % 2);
    if (tile < Panel::kWorkers) memory.b_full[slice].wait(0);  // the worker's first tile
    const uint64_t a = cuda::rows_operand(memory.a[stage]);
    const uint64_t b =
        b_by_columns ? cuda::columns_operand(memory.b[slice], Panel::kPieceBytes) : cuda::rows_operand(memory.b[slice]);
    cuda::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Panel::kSlice; k += 16) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        cuda::wgmma<T, b_by_columns>(sums[half], cuda::operand_at(a, half * Panel::kPieceBytes + 2 * k),
                                     cuda::operand_at(b, b_by_columns ? 128 * k : 2 * k), slice > 0 || k > 0);
    }
    cuda::wgmma_commit();
    cuda::wgmma_wait<1>();
    if (slice > 0) release(count - 1);
  }
  if (lane == 0) memory.turn[1 - worker].arrive();
  cuda::wgmma_wait<0>();
  release(count - 1);
  cuda::keep_sums(sums[0]);
  cuda::keep_sums(sums[1]);
}

/// A worker's lane's place in a piece of 64 x 64 as copies leave it: its numbers of a piece, as the sums lie
/// (wgmma.cuh), are both[2 j + r] = (16 w + g + 8 r, 8 j + 2 t) and its right neighbour.
struct PieceLane {
  int row_bytes, block, swizzle;

  __device__ PieceLane() {
    const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp % 4;
    row_bytes = (16 * warp + lane % 16) * 128;
    block = lane / 16;
    swizzle = lane % 8;
  }
  __device__ char* at(char* piece, int pair) const { return piece + row_bytes + ((2 * pair + block ^ swizzle) * 16); }

  __device__ void load(const char* piece, uint32_t (&both)[16]) const {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t four[4];
      cuda::load_tiles(four, at(const_cast<char*>(piece), pair));
#pragma unroll
      for (int i = 0; i < 4; ++i) both[4 * pair + i] = four[i];
    }
  }
  __device__ void store(const uint32_t (&both)[16], char* piece) const {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair)
      cuda::store_tiles(at(piece, pair), both[4 * pair], both[4 * pair + 1], both[4 * pair + 2], both[4 * pair + 3]);
  }
};

}  // namespace memformer::ops
