// The epilogue of a tile's product: the activation, or its derivative, applied to the sums; and the results' way to
// memory, 64 x 64 at a time, through buffers that a thread of the block's first warp group empties for each worker and,
// in the backward pass, fills.
// Letters: N rows, F feed-forward width.
#pragma once
#include "core/cuda/mma.cuh"
#include "ops/common/gelu.cuh"
#include "ops/feed_forward/feed_forward.cuh"
#include "ops/feed_forward/panel_product.cuh"

namespace memformer::ops {

struct Maps {
  CUtensorMap a, b;  // the factors
  CUtensorMap pre;   // (N, F): out in the forward pass, in in the backward pass
  CUtensorMap out;   // (N, F)
};

/// Piece `piece` of a tile: 64 x 64 from there.
struct Place {
  int row, column;
  __device__ Place(const PanelWork& work, int tile, int piece)
      : row(work.row(tile) + piece / 2 * Panel::kPiece), column(work.column() + piece % 2 * Panel::kPiece) {}
};

/// One thread's work for a worker: what that has written goes to memory, and its buffer is ready again.
__device__ __forceinline__ void store_results(PanelMemory& memory, const Maps& maps, const PanelWork& work, int worker,
                                              bool keeps_pre) {
  uint32_t count = 0;
  const auto store = [&](const CUtensorMap& map, const Place& place) {
    const int buffer = count % Panel::kBuffers;
    memory.written[worker][buffer].wait(count / Panel::kBuffers % 2);
    cuda::store_box(map, place.row, place.column, memory.piece[worker][buffer]);
    cuda::wait_stores_read();
    memory.ready[worker][buffer].arrive();
    ++count;
  };
  for (int tile = worker; tile < work.tiles; tile += Panel::kWorkers) {
    for (int piece = 0; piece < Panel::kPieces; ++piece) {
      const Place place(work, tile, piece);
      if (keeps_pre) store(maps.pre, place);
      store(maps.out, place);
    }
  }
  cuda::wait_stores();
}

/// As store_results; in every buffer comes what the worker reads and writes over.
__device__ __forceinline__ void load_and_store(PanelMemory& memory, const Maps& maps, const PanelWork& work,
                                               int worker) {
  const auto tile_of = [&](int count) { return worker + count / Panel::kPieces * Panel::kWorkers; };
  const auto prefetch = [&](int count) {
    if (tile_of(count) >= work.tiles) return;
    const Place place(work, tile_of(count), count % Panel::kPieces);
    cuda::prefetch_box(maps.pre, place.row, place.column);
  };
  const auto load = [&](int count) {
    if (tile_of(count) >= work.tiles) return;
    const Place place(work, tile_of(count), count % Panel::kPieces);
    auto& ready = memory.ready[worker][count % Panel::kBuffers];
    ready.expect(Panel::kPieceBytes);
    cuda::load_box(memory.piece[worker][count % Panel::kBuffers], maps.pre, place.row, place.column, ready);
    prefetch(count + Panel::kBuffers);
  };
  for (int count = 0; count < Panel::kBuffers; ++count) load(count);
  for (int count = 0; tile_of(count) < work.tiles; ++count) {
    const int buffer = count % Panel::kBuffers;
    const Place place(work, tile_of(count), count % Panel::kPieces);
    memory.written[worker][buffer].wait(count / Panel::kBuffers % 2);
    cuda::store_box(maps.out, place.row, place.column, memory.piece[worker][buffer]);
    cuda::wait_stores_read();
    load(count + Panel::kBuffers);
  }
  cuda::wait_stores();
}

/// A worker's side of its buffers: they are taken in turns.
struct Buffers {
  PanelMemory& memory;
  const int worker;
  uint32_t count = 0;  // of pieces written

  __device__ char* now() const { return memory.piece[worker][count % Panel::kBuffers]; }
  /// `filled`: the first time too there is something to wait for.
  __device__ void wait(bool filled) const {
    memory.ready[worker][count % Panel::kBuffers].wait(count / Panel::kBuffers % 2 ^ (filled ? 0 : 1));
  }
  __device__ void done() {
    cuda::fence_copies();
    __syncwarp();
    if (threadIdx.x % cuda::kWarp == 0) memory.written[worker][count % Panel::kBuffers].arrive();
    ++count;
  }
};

template <typename T>
__device__ __forceinline__ void activate(const PanelMemory& memory, const PieceLane& lane, Buffers& buffers,
                                         const float (&sums)[2][64], bool keeps_pre) {
#pragma unroll
  for (int piece = 0; piece < Panel::kPieces; ++piece) {
    const int first = piece % 2 * Panel::kPiece;
    uint32_t both[16];
#pragma unroll
    for (int i = 0; i < 16; ++i)
      both[i] = cuda::pair<T>(sums[piece / 2][first / 2 + 2 * i], sums[piece / 2][first / 2 + 2 * i + 1]);
    if (keeps_pre) {
      buffers.wait(false);
      lane.store(both, buffers.now());
      buffers.done();
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 bias = *reinterpret_cast<const float2*>(memory.bias + first + i / 2 * 8 + threadIdx.x % 4 * 2),
                   x = cuda::unpair<T>(both[i]);
      both[i] = cuda::pair<T>(cuda::gelu<T>(x.x + bias.x), cuda::gelu<T>(x.y + bias.y));
    }
    buffers.wait(false);
    lane.store(both, buffers.now());
    buffers.done();
  }
}

/// Adds the gradient of the bias to `totals`: totals[h][i] of column 64 h + 8 (i / 2) + 2 t + i % 2.
template <typename T>
__device__ __forceinline__ void send_back(const PanelMemory& memory, const PieceLane& lane, Buffers& buffers,
                                          const float (&sums)[2][64], float (&totals)[2][16]) {
#pragma unroll
  for (int piece = 0; piece < Panel::kPieces; ++piece) {
    const int first = piece % 2 * Panel::kPiece;
    uint32_t both[16];
    buffers.wait(true);
    lane.load(buffers.now(), both);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 bias = *reinterpret_cast<const float2*>(memory.bias + first + i / 2 * 8 + threadIdx.x % 4 * 2),
                   x = cuda::unpair<T>(both[i]);
      const float left = sums[piece / 2][first / 2 + 2 * i] * cuda::gelu_derivative<T>(x.x + bias.x);
      const float right = sums[piece / 2][first / 2 + 2 * i + 1] * cuda::gelu_derivative<T>(x.y + bias.y);
      totals[piece % 2][i / 2 * 2] += left;
      totals[piece % 2][i / 2 * 2 + 1] += right;
      both[i] = cuda::pair<T>(left, right);
    }
    lane.store(both, buffers.now());
    buffers.done();
  }
}

/// The totals of all workers' lanes to partials (shares, F). All workers come here when all products are done.
__device__ __forceinline__ void store_totals(PanelMemory& memory, const PanelWork& work, float (&totals)[2][16],
                                             const FeedForwardParams& p) {
  constexpr int kWarps = Panel::kWorkers * Panel::kGroup / cuda::kWarp;
  auto& of_warp = reinterpret_cast<float (&)[kWarps][Panel::kColumns]>(memory.a);  // nothing comes any more
  const int lane = threadIdx.x % cuda::kWarp, thread = static_cast<int>(threadIdx.x) - Panel::kGroup;
  cuda::meet<1, kWarps * cuda::kWarp>();
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    float& total = totals[i / 16][i % 16];
#pragma unroll
    for (int offset = 4; offset < cuda::kWarp; offset *= 2) total += __shfl_xor_sync(cuda::kAllLanes, total, offset);
    if (lane < 4) of_warp[thread / cuda::kWarp][i / 16 * Panel::kPiece + i % 16 / 2 * 8 + 2 * lane + i % 2] = total;
  }
  cuda::meet<1, kWarps * cuda::kWarp>();
  const int column = work.column() + thread;
  if (thread >= Panel::kColumns || column >= p.F) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += of_warp[warp][thread];
  p.partials[blockIdx.x * p.F + column] = total;
}

}  // namespace memformer::ops
