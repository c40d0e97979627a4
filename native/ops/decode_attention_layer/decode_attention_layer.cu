// An attention layer of few rows in one kernel: a cluster of 4 blocks for each row and head. Weights come to shared
// memory before the kernel ahead has ended, each to the thread that multiplies by it.
//
//   block      the row's norm
//   warp w     share w of the projection's inner axis, for the block's fourth of the head's query, key and value
//   threads    the shares' sums in their order and the bias, a number each, rounded
//   cluster    every block's numbers to all blocks
//   warp       the head's query or key divided by its root mean square, where it is asked for
//   block      the head's attention, each anew
//   warp w     its columns of the block's fourth of the product behind
//
// Why the bits are those of the parts one after the other: every number is summed of the same terms in the same order.
// A share's terms are added by add_chunk, from zero, chunk by chunk, as decode_linear's warps add them; norm, turn,
// attention and the product behind it are the same functions, and what is rounded between them is rounded here.
#include "ops/decode_attention_layer/decode_attention_layer.cuh"

#include <type_traits>

#include "core/cuda/cluster.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "ops/decode_attention/decode_attention_head.cuh"
#include "ops/decode_attention_linear/head_product.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWarps = kDecodeShares, kThreads = kWarps * kWarp;
constexpr int kBlocks = 4;                 // of a cluster
constexpr int kColumns = kHead / kBlocks;  // of a head's query, key or value, that a block projects

/// What a block computes, and its shared memory. `own`: of self-attention.
template <typename T, int head_shares, bool own>
struct Layout {
  static constexpr int width = kDecodeShares / head_shares * kHead;
  using Product = HeadProduct<T, head_shares, width / kBlocks / (8 * kWarps), kWarps>;
  static constexpr int kinds = own ? 3 : 1;                                  // query, key, value
  static constexpr int tiles = kinds * kColumns / 8;                         // of 8 columns
  static constexpr int chunks = width / kDecodeShares / kDecodeChunk;        // of a share
  static constexpr int packs = kColumns * static_cast<int>(sizeof(T)) / 16;  // of a kind's columns
  static_assert(kThreads == kReaders && Product::parts == kBlocks && kColumns <= kWarp && kBlocks * packs <= kWarp &&
                kThreads >= 3 * kHead);

  Product product;
  uint4 projection[kWarps][tiles * chunks][kWarp];  // 16 bytes a lane, read by the lane that has asked for them
  float sums[kWarps][kinds * kColumns];
  alignas(16) unsigned char norm[SharedNorm<T>::bytes(width)];
  alignas(16) T normed[width + kDecodePad];
  alignas(16) T projected[kinds][kHead];
  float query[kHead], scratch[read_scratch</*packed=*/true>(0, kHead)];
  alignas(16) T own_key[kHead];
  alignas(16) T own_value[kHead];
  alignas(16) T read[kHead];
  alignas(8) Inbox inbox;  // of `projected`
};

template <typename T, int head_shares, bool own>
__global__ void __launch_bounds__(kThreads, 2) decode_attention_layer_kernel(const DecodeAttentionLayerParams p) {
  using Shared = Layout<T, head_shares, own>;
  constexpr int width = Shared::width, chunks = Shared::chunks;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<Shared*>(shared_bytes);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int h = blockIdx.x / kBlocks, rank = blockIdx.x % kBlocks;
  const int64_t row = blockIdx.y;
  const auto* projection = static_cast<const T*>(p.projection.weight);

  // The lane's part of every chunk: numbers 8 t of column g of a tile.
#pragma unroll
  for (int n = 0; n < Shared::tiles; ++n) {
    const int kind = 8 * n / kColumns, first = h * kHead + rank * kColumns + 8 * n % kColumns;
#pragma unroll
    for (int c = 0; c < chunks; ++c)
      copy_16_bytes(&shared.projection[warp][n * chunks + c][lane],
                    projection + int64_t{kind * width + first + g} * width + (warp * chunks + c) * kDecodeChunk + 8 * t,
                    16);
  }
  const SharedNorm<T> norm(p.projection, shared.norm);
  norm.ask(p.projection);
  shared.product.ask(static_cast<const T*>(p.weight), h, rank);
  if (threadIdx.x == 0) shared.inbox.open(sizeof(shared.projected));
  arrive_at_cluster();
  HeadReader<T, /*packed=*/true, /*own_apart=*/own, kHead> reader(p.attention, row, h);
  float bias = 0;  // of the number of which this thread adds the shares
  if (p.projection.bias != nullptr && warp < Shared::kinds && lane < kColumns)
    bias = convert<float>(static_cast<const T*>(p.projection.bias)[warp * width + h * kHead + rank * kColumns + lane]);
  wait_for_previous();
  let_next_begin();

  norm_rows<T, 1>(p.projection, row, blockIdx.x == 0, norm, shared.normed);
  __syncthreads();
  constexpr uint4 none{0, 0, 0, 0};
  {
    uint4 normed[chunks];
#pragma unroll
    for (int c = 0; c < chunks; ++c)
      normed[c] =
          g == 0 ? *reinterpret_cast<const uint4*>(shared.normed + (warp * chunks + c) * kDecodeChunk + 8 * t) : none;
#pragma unroll
    for (int n = 0; n < Shared::tiles; ++n) {
      float sums[4] = {};
#pragma unroll
      for (int c = 0; c < chunks; ++c)
        add_chunk<T>(sums, normed[c], none, shared.projection[warp][n * chunks + c][lane]);
      if (g == 0) *reinterpret_cast<float2*>(&shared.sums[warp][8 * n + 2 * t]) = {sums[0], sums[1]};
    }
  }
  __syncthreads();
  wait_for_cluster();  // every block of it has begun: its shared memory is there
  if (warp < Shared::kinds) {
    if (lane < kColumns) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += shared.sums[other][warp * kColumns + lane];
      if (p.projection.bias != nullptr) sum += bias;
      shared.projected[warp][rank * kColumns + lane] = convert<T>(sum);
    }
    __syncwarp();
    if (const int other = lane / Shared::packs; other < kBlocks) {  // also to this block, whose threads wait as well
      auto* numbers = &shared.projected[warp][rank * kColumns + lane % Shared::packs * (16 / sizeof(T))];
      shared.inbox.send(numbers, other, *reinterpret_cast<const uint4*>(numbers));
    }
  }
  shared.inbox.wait();
  if (p.norm_heads) {  // each block its own copy
    if (warp < (own ? 2 : 1)) norm_head(shared.projected[warp]);
    __syncthreads();
  }

  if constexpr (own) {
    const auto& append = p.attention.append;
    turn_own_head(append, row, h, &shared.projected[0][0], int64_t{kHead}, /*writes=*/rank == 0, shared.query,
                  shared.own_key, shared.own_value);
    // Not from the cache: the block that writes there may come later.
    if (has_place(append, row)) reader.read_own(shared.own_key, shared.own_value);
  } else if (threadIdx.x < kHead) {
    shared.query[threadIdx.x] = convert<float>(shared.projected[0][threadIdx.x]);
  }
  __syncthreads();
  reader.read(p.attention, shared.query, shared.scratch, shared.read);
  __syncthreads();
  shared.product.multiply(shared.read, row, h, rank, p.shares);
}

/// Calls body(kernel, its shared bytes) of the kernel for these, if there is one.
template <typename Body>
void for_kernel(const DecodeAttentionLayerParams& p, Body&& body) {
  const auto for_head = [&](auto type, auto head_shares) {
    using T = typename decltype(type)::type;
    constexpr int shares = decltype(head_shares)::value;
    if (p.attention.q == nullptr)
      body(decode_attention_layer_kernel<T, shares, true>, sizeof(Layout<T, shares, true>));
    else
      body(decode_attention_layer_kernel<T, shares, false>, sizeof(Layout<T, shares, false>));
  };
  for_dtype(p.attention.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      if (!reads_packed<T>(p.attention) || p.attention.E != kHead) return;
      if (p.attention.H == kDecodeShares) for_head(type, std::integral_constant<int, 1>());
      if (2 * p.attention.H == kDecodeShares) for_head(type, std::integral_constant<int, 2>());
    }
  });
}

}  // namespace

bool fits_decode_attention_layer(const DecodeAttentionLayerParams& p) {
  const bool aligned = reinterpret_cast<uintptr_t>(p.weight) % 16 == 0;
  const bool rows = p.attention.R > 0 && p.attention.R <= 65535;
  bool fits = false;
  if (rows && aligned && fits_tensor_cores(p.projection))
    for_kernel(p, [&](auto kernel, size_t bytes) { fits = launches_clusters(kernel, kBlocks, kThreads, bytes); });
  return fits;
}

void launch_decode_attention_layer(const DecodeAttentionLayerParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.attention.H * kBlocks), static_cast<unsigned>(p.attention.R));
  for_kernel(p, [&](auto kernel, size_t bytes) {
    cuda::launch<DecodeAttentionLayerParams>(kernel, grid, kThreads, bytes, stream, p, p.projection.settled, kBlocks);
  });
}

}  // namespace memformer::ops
