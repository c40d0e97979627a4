#include "ops/attention/cross_attention_block.cuh"

// Keys stay, queries stream. A warp has 32 keys, and dL/dk and dL/dv of them sum in its registers: it computes the
// scores transposed, so that weights and ds come out in the order in which both take them. Only dL/dq, a sum over the
// keys of all warps, needs ds in shared memory, whence it is read transposed; for this each warp takes 32 of the tile's
// queries and half of E. The keys are not held as A: both sums fill the registers.
namespace memformer::ops {
namespace {

/// Scores (keys, queries) to weights: 0 in rows from `limit` on, which are no keys. lse is that of the lane's first
/// query.
template <typename Block>
__device__ __forceinline__ void exponentials(typename Block::Sums& s, const float* lse, float scale, int limit) {
  const int g = threadIdx.x % kWarp / 4;
#pragma unroll
  for (int j = 0; j < Block::kChunk / 8; ++j) {
    float2 of_queries = *reinterpret_cast<const float2*>(lse + 8 * j);
    of_queries.x *= kLog2E;
    of_queries.y *= kLog2E;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[m][j][i] = exp2f(fmaf(s[m][j][i], scale, -(i % 2 == 0 ? of_queries.x : of_queries.y)));
    }
  }
  if (limit >= Block::kRows) return;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < Block::kChunk / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][j][i] = 16 * m + g + i / 2 * 8 < limit ? s[m][j][i] : 0.0f;
    }
  }
}

/// Weights times (x less the queries' delta): ds. delta is that of the lane's first query.
template <typename Block>
__device__ __forceinline__ void times_difference(typename Block::Sums& weights, const typename Block::Sums& x,
                                                 const float* delta) {
#pragma unroll
  for (int j = 0; j < Block::kChunk / 8; ++j) {
    const float2 of_queries = *reinterpret_cast<const float2*>(delta + 8 * j);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[m][j][i] *= x[m][j][i] - (i % 2 == 0 ? of_queries.x : of_queries.y);
    }
  }
}

/// The sums of 32 queries from `row` and E / 2 numbers from `column`, times `factor`, added to what lies in shared
/// memory.
template <typename Block>
__device__ __forceinline__ void add_half(const typename Block::Heads& to, int row, int column,
                                         const float (&c)[2][Block::E / 16][4], float factor) {
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < Block::E / 16; ++j) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        auto* place = reinterpret_cast<uint32_t*>(to.at(row + 16 * m + g + 4 * i, column + 8 * j + 2 * t));
        const float2 there = unpair<typename Block::T>(*place);
        *place = pair<typename Block::T>(there.x + c[m][j][i] * factor, there.y + c[m][j][i + 1] * factor);
      }
    }
  }
}

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 2)
    cross_attention_queries_backward_kernel(const CrossAttentionQueriesParams params) {
  using Heads = typename Block::Heads;
  using Weights = typename Block::Weights;
  using T = typename Block::T;
  constexpr int E = Block::E;
  const CrossAttentionParams& p = params.of;
  extern __shared__ uint4 memory[];
  auto* bytes = reinterpret_cast<unsigned char*>(memory);
  const auto part = [&](int offset) { return reinterpret_cast<T*>(bytes + offset); };
  constexpr int kTiles = 2 * Block::kShortBytes, kDs = kTiles + 6 * Block::kTileBytes,
                kSums = kDs + Block::kWeightsBytes;
  static_assert(kSums + 4 * kLongTile * 4 <= Block::kBytes && Block::kThreads == 2 * kLongTile);
  const Heads k{part(0)}, v{part(Block::kShortBytes)};
  const auto tile_at = [&](int tile, int i) { return Heads{part(kTiles + (tile % 2 * 3 + i) * Block::kTileBytes)}; };
  const auto sums_at = [&](int tile) {
    return reinterpret_cast<float*>(bytes + kSums) + tile % 2 * 2 * kLongTile;
  };  // lse, then delta
  const Weights ds{part(kDs)};

  const int warp = warp_of_block(), row = Block::kRows * warp, t = threadIdx.x % 4;
  const int b = blockIdx.x / p.H, h = blockIdx.x % p.H, tiles = (p.N + kLongTile - 1) / kLongTile;
  const int seen = params.lengths == nullptr ? p.M : max(0, min(p.M, params.lengths[b]));
  const auto q_bh = Block::rows_of(p.q, b, h), grad_bh = Block::rows_of(p.grad, b, h),
             grad_q_bh = Block::rows_of(p.grad_q, b, h);
  const auto fetch_tile = [&](int tile) {
    const int first = tile * kLongTile, query = first + threadIdx.x % kLongTile;
    Block::template fetch<kLongTile>(tile_at(tile, 0), q_bh, first, p.N);
    Block::template fetch<kLongTile>(tile_at(tile, 1), grad_bh, first, p.N);
    Block::template fetch<kLongTile>(tile_at(tile, 2), grad_q_bh, first, p.N);
    const float* sums = (threadIdx.x < kLongTile ? p.lse : params.delta) + (int64_t{b} * p.H + h) * p.N;
    copy_4_bytes(sums_at(tile) + threadIdx.x, sums + (query < p.N ? query : 0), query < p.N ? 4 : 0);
  };
  Block::template fetch<kShortRows>(k, Block::rows_of(p.k, b, h), 0, p.M);
  Block::template fetch<kShortRows>(v, Block::rows_of(p.v, b, h), 0, p.M);
  if (tiles > 0) fetch_tile(0);

  typename Block::HeadSums grad_k = {}, grad_v = {};
  const auto from = [row](const Heads& heads) {
    return [row, heads](int step, uint32_t (&a)[2][4]) {
      heads.load_a(a[0], row, 16 * step);
      heads.load_a(a[1], row + 16, 16 * step);
    };
  };
  for (int tile = 0; tile < tiles; ++tile) {
    const Heads q = tile_at(tile, 0), grad = tile_at(tile, 1), grad_q = tile_at(tile, 2);
    const float* lse = sums_at(tile) + 2 * t;
    arrived();
    __syncthreads();  // the tile is there; ds and the tile before have been read
    if (tile + 1 < tiles) fetch_tile(tile + 1);
    if (row < seen) {
#pragma unroll 1  // two chunks at once would spill
      for (int chunk = 0; chunk < kLongTile; chunk += Block::kChunk) {
        typename Block::Sums s, x;
        typename Block::Pairs pairs;
        Block::product(s, from(k), q, chunk);
        exponentials<Block>(s, lse + chunk, p.scale * kLog2E, seen - row);
        Block::round(pairs, s);
        Block::mix(grad_v, pairs, grad, chunk);
        Block::product(x, from(v), grad, chunk);
        times_difference<Block>(s, x, lse + kLongTile + chunk);
        Block::round(pairs, s);
        Block::put(ds, row, chunk, pairs);
        Block::mix(grad_k, pairs, q, chunk);
      }
    }
    __syncthreads();  // ds is there
    const int query = warp % 2 * Block::kRows, column = warp / 2 * (E / 2);
    float c[2][E / 16][4];
    Block::template sum_over_short<E / 2>(c, ds, query, k, column, seen);
    add_half<Block>(grad_q, query, column, c, p.scale);
    __syncwarp();
    Block::template save<E / 2>(grad_q, query, column, grad_q_bh, tile * kLongTile + query, p.N);
  }
  arrived();        // without queries the keys may still be on their way
  __syncthreads();  // keys have been read
  Block::put(k, row, grad_k, p.scale);
  Block::put(v, row, grad_v, 1.0f);
  __syncwarp();
  Block::template save<E>(k, row, 0, Block::rows_of(p.grad_k, b, h), row, p.M);
  Block::template save<E>(v, row, 0, Block::rows_of(p.grad_v, b, h), row, p.M);
}

}  // namespace

void launch_cross_attention_queries_backward(const CrossAttentionQueriesParams& params, cudaStream_t stream) {
  if (params.of.B * params.of.H == 0) return;
  for_cross_attention_block(params.of, [&](auto block) {
    using Block = decltype(block);
    launch_cross_attention<Block>(cross_attention_queries_backward_kernel<Block>, params, stream);
  });
}

}  // namespace memformer::ops
