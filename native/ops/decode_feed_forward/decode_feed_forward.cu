// The feed-forward layer of few rows in one kernel: a cluster of 8 blocks for each share of the second product's inner
// axis, the hidden units. Weights come to shared memory before the kernel ahead has ended, each to the thread that
// multiplies by it.
//
//   block      all rows' norm
//   warp w     share w of the first product's inner axis, for the block's eighth of the cluster's units
//   threads    the shares' sums in their order, bias and gelu, a number each, rounded
//   cluster    every block's units to all blocks
//   warp w     eight columns of the block's eighth of the branch, over the cluster's units
//
// Why the bits are those of the parts one after the other: every number is summed of the same terms in the same order.
// A share's terms are added by add_chunk, from zero, chunk by chunk, as decode_linear's warps add them; norm and gelu
// are the same functions, and what is rounded between the products is rounded here.
#include "ops/decode_feed_forward/decode_feed_forward.cuh"
#include "core/cuda/cluster.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "ops/common/gelu.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWarps = kDecodeShares, kThreads = kWarps * kWarp;
constexpr int kBlocks = 8;  // of a cluster
constexpr int kRows = 8;    // the upper half of the tensor cores' tile; its lower half is zeros

/// What a block computes, and its shared memory.
template <typename T, int width>
struct Layout {
  static constexpr int inner = 4 * width;
  static constexpr int share = inner / kDecodeShares;                   // hidden units of a cluster
  static constexpr int units = share / kBlocks;                         // and of a block
  static constexpr int columns = width / kBlocks;                       // of the branch
  static constexpr int up_tiles = units / 8, down_tiles = columns / 8;  // of 8 units, or columns
  static constexpr int up_chunks = width / kDecodeShares / kDecodeChunk, down_chunks = share / kDecodeChunk;
  static constexpr int packs = units * sizeof(T) / 16;  // of a row's units
  static_assert(units % 8 == 0 && width % (kDecodeShares * kDecodeChunk) == 0 && share % kDecodeChunk == 0);
  static_assert(down_tiles <= kWarps && kRows * packs <= kWarp && kRows * units <= kThreads);

  uint4 up[kWarps][up_tiles * up_chunks][kWarp];  // 16 bytes a lane, read by the lane that has asked for them
  uint4 down[kWarps][down_chunks][kWarp];
  float sums[kWarps][kRows][units];
  alignas(16) unsigned char norm[SharedNorm<T>::bytes(width)];
  alignas(16) T normed[kRows][width + kDecodePad];
  alignas(16) T hidden[kRows][share + kDecodePad];
  alignas(8) Inbox inbox;  // of the other blocks' `hidden`
};

template <typename T, int width>
__global__ void __launch_bounds__(kThreads, 1) decode_feed_forward_kernel(const DecodeFeedForwardParams p) {
  using Shared = Layout<T, width>;
  constexpr int inner = Shared::inner, units = Shared::units;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<Shared*>(shared_bytes);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int share = blockIdx.x / kBlocks, rank = blockIdx.x % kBlocks, R = static_cast<int>(p.up.R);
  const int first_unit = share * Shared::share + rank * units, first_column = rank * Shared::columns + 8 * warp;
  const auto* up = static_cast<const T*>(p.up.weight);
  const auto* down = static_cast<const T*>(p.down);

  // The lane's part of every chunk: numbers 8 t of column g of a tile.
#pragma unroll
  for (int n = 0; n < Shared::up_tiles; ++n)
#pragma unroll
    for (int c = 0; c < Shared::up_chunks; ++c)
      copy_16_bytes(
          &shared.up[warp][n * Shared::up_chunks + c][lane],
          up + int64_t{first_unit + 8 * n + g} * width + (warp * Shared::up_chunks + c) * kDecodeChunk + 8 * t, 16);
  if (warp < Shared::down_tiles)
#pragma unroll
    for (int c = 0; c < Shared::down_chunks; ++c)
      copy_16_bytes(&shared.down[warp][c][lane],
                    down + int64_t{first_column + g} * inner + share * Shared::share + c * kDecodeChunk + 8 * t, 16);
  if (threadIdx.x == 0) shared.inbox.open(R * (kBlocks - 1) * units * static_cast<int>(sizeof(T)));
  arrive_at_cluster();
  const SharedNorm<T> norm(p.up, shared.norm);
  norm.ask(p.up);
  float bias = 0;  // of the unit of which this thread adds the shares
  static_assert(kThreads % units == 0);
  if (p.up.bias != nullptr)
    bias = convert<float>(static_cast<const T*>(p.up.bias)[first_unit + static_cast<int>(threadIdx.x) % units]);
  wait_for_previous();
  let_next_begin();

  norm_rows<T, kRows>(p.up, 0, blockIdx.x == 0, norm, &shared.normed[0][0]);
  __syncthreads();
  constexpr uint4 none{0, 0, 0, 0};
  {
    uint4 own[Shared::up_chunks];
#pragma unroll
    for (int c = 0; c < Shared::up_chunks; ++c)
      own[c] =
          *reinterpret_cast<const uint4*>(&shared.normed[g][(warp * Shared::up_chunks + c) * kDecodeChunk + 8 * t]);
#pragma unroll
    for (int n = 0; n < Shared::up_tiles; ++n) {
      float sums[4] = {};
#pragma unroll
      for (int c = 0; c < Shared::up_chunks; ++c)
        add_chunk<T>(sums, own[c], none, shared.up[warp][n * Shared::up_chunks + c][lane]);
      *reinterpret_cast<float2*>(&shared.sums[warp][g][8 * n + 2 * t]) = {sums[0], sums[1]};
    }
  }
  __syncthreads();
  if (const int row = threadIdx.x / units, unit = threadIdx.x % units; row < R) {
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) sum += shared.sums[other][row][unit];
    if (p.up.bias != nullptr) sum += bias;
    shared.hidden[row][rank * units + unit] = convert<T>(gelu<float>(sum));
  }
  wait_for_cluster();  // every block of it has begun: its shared memory is there
  __syncthreads();
  if (const int row = lane / Shared::packs; warp != rank && row < R) {
    auto* own = &shared.hidden[row][rank * units + lane % Shared::packs * (16 / sizeof(T))];
    shared.inbox.send(own, warp, *reinterpret_cast<const uint4*>(own));
  }
  shared.inbox.wait();
  if (warp >= Shared::down_tiles) return;
  float sums[4] = {};
#pragma unroll
  for (int c = 0; c < Shared::down_chunks; ++c) {
    const uint4 own = g < R ? *reinterpret_cast<const uint4*>(&shared.hidden[g][c * kDecodeChunk + 8 * t]) : none;
    add_chunk<T>(sums, own, none, shared.down[warp][c][lane]);
  }
  if (g < R)
    *reinterpret_cast<float2*>(p.shares + (int64_t{g} * kDecodeShares + share) * width + first_column + 2 * t) = {
        sums[0], sums[1]};
}

/// Calls body(kernel, its shared bytes) of the kernel for these, if there is one.
template <typename Body>
void for_kernel(const DecodeFeedForwardParams& p, Body&& body) {
  for_dtype(p.up.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      if (p.up.K == 256) body(decode_feed_forward_kernel<T, 256>, sizeof(Layout<T, 256>));
      if (p.up.K == 512) body(decode_feed_forward_kernel<T, 512>, sizeof(Layout<T, 512>));
    }
  });
}

}  // namespace

bool fits_decode_feed_forward(const DecodeFeedForwardParams& p) {
  if (p.up.R < 1 || p.up.R > kRows || p.up.norm_weight == nullptr || p.up.N != 4 * p.up.K || !fits_tensor_cores(p.up) ||
      reinterpret_cast<uintptr_t>(p.down) % 16 != 0)
    return false;
  bool fits = false;
  for_kernel(p, [&](auto kernel, size_t bytes) { fits = launches_clusters(kernel, kBlocks, kThreads, bytes); });
  return fits;
}

void launch_decode_feed_forward(const DecodeFeedForwardParams& p, cudaStream_t stream) {
  for_kernel(p, [&](auto kernel, size_t bytes) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    cuda::launch<DecodeFeedForwardParams>(kernel, kDecodeShares * kBlocks, kThreads, bytes, stream, p, p.up.settled,
                                          kBlocks);
  });
}

}  // namespace memformer::ops
