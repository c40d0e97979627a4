#include "ops/attention/cross_attention_block.cuh"

// Queries stay, keys stream. A warp has 32 queries: those and their gradients lie in its registers as A, dL/dq sums
// there, and scores and ds come out in the order in which dL/dq takes them. Only dL/dk and dL/dv, sums over the queries
// of all warps, need the weights and ds in shared memory, whence they are read transposed; for these two warps take the
// values and two the keys, so that each result is one warp's.
namespace memformer::ops {
namespace {

/// rowsum(grad y) of all queries, and lse, in base 2, to shared memory; 0 where there is no query.
template <typename Block>
__device__ __forceinline__ void bring_sums(float* lse, float* delta, const CrossAttentionKeysParams& params, int b,
                                           int h) {
  constexpr int lanes = Block::E / 8;
  const CrossAttentionParams& p = params.of;
  const auto grad = Block::rows_of(p.grad, b, h), y = Block::rows_of(params.y, b, h);
  const int column = threadIdx.x % lanes * 8;
#pragma unroll
  for (int i = 0; i < kShortRows; i += Block::kThreads / lanes) {
    const int query = i + threadIdx.x / lanes;
    float x[8] = {}, of_y[8] = {}, sum = 0.0f;
    if (query < p.N) {
      load(grad.data + query * grad.stride + column, x);
      load(y.data + query * y.stride + column, of_y);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += x[e] * of_y[e];
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (column == 0) delta[query] = sum;
  }
  const int query = threadIdx.x;
  lse[query] = query < p.N ? p.lse[(int64_t{b} * p.H + h) * p.N + query] * kLog2E : 0.0f;
}

/// Scores to weights: 0 for keys from `limit` on, counted from the chunk's first. lse is that of the lane's first
/// query.
template <typename Block>
__device__ __forceinline__ void exponentials(typename Block::Sums& s, const float* lse, float scale, int limit) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < Block::kChunk / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][j][i] = exp2f(fmaf(s[m][j][i], scale, -lse[16 * m + i / 2 * 8]));
    }
  }
  if (limit >= Block::kChunk) return;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < Block::kChunk / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][j][i] = 8 * j + 2 * t + i % 2 < limit ? s[m][j][i] : 0.0f;
    }
  }
}

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 2)
    cross_attention_keys_backward_kernel(const CrossAttentionKeysParams params) {
  using Heads = typename Block::Heads;
  using Weights = typename Block::Weights;
  using T = typename Block::T;
  const CrossAttentionParams& p = params.of;
  extern __shared__ uint4 memory[];
  auto* bytes = reinterpret_cast<unsigned char*>(memory);
  const auto part = [&](int offset) { return reinterpret_cast<T*>(bytes + offset); };
  constexpr int kTiles = 2 * Block::kShortBytes, kWeights = kTiles + 4 * Block::kTileBytes,
                kSums = kWeights + 2 * Block::kWeightsBytes;
  static_assert(kSums + 2 * kShortRows * 4 <= Block::kBytes && Block::kThreads == kShortRows);
  const Heads q{part(0)}, grad{part(Block::kShortBytes)};
  const auto keys_at = [&](int tile) { return Heads{part(kTiles + tile % 2 * 2 * Block::kTileBytes)}; };
  const auto values_at = [&](int tile) { return Heads{part(kTiles + (tile % 2 * 2 + 1) * Block::kTileBytes)}; };
  const Weights weights{part(kWeights)}, ds{part(kWeights + Block::kWeightsBytes)};
  auto* lse_of = reinterpret_cast<float*>(bytes + kSums);
  auto* delta_of = lse_of + kShortRows;

  const int warp = warp_of_block(), row = Block::kRows * warp, g = threadIdx.x % kWarp / 4;
  const int b = blockIdx.x / p.H, h = blockIdx.x % p.H, tiles = (p.M + kLongTile - 1) / kLongTile;
  const auto k_bh = Block::rows_of(p.k, b, h), v_bh = Block::rows_of(p.v, b, h);
  const auto fetch_tile = [&](int tile) {
    Block::template fetch<kLongTile>(keys_at(tile), k_bh, tile * kLongTile, p.M);
    Block::template fetch<kLongTile>(values_at(tile), v_bh, tile * kLongTile, p.M);
  };
  Block::template fetch<kShortRows>(q, Block::rows_of(p.q, b, h), 0, p.N);
  Block::template fetch<kShortRows>(grad, Block::rows_of(p.grad, b, h), 0, p.N);
  fetch_tile(0);
  bring_sums<Block>(lse_of, delta_of, params, b, h);
  arrived();
  __syncthreads();

  typename Block::HeadRows q_rows, grad_rows;
  typename Block::HeadSums grad_q = {};
  Block::load_rows(q_rows, q, row);
  Block::load_rows(grad_rows, grad, row);
  const auto from = [](const typename Block::HeadRows& rows) {
    return [&rows](int step, uint32_t (&a)[2][4]) {
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = rows[i / 4][step][i % 4];
    };
  };

  for (int tile = 0; tile < tiles; ++tile) {
    const Heads k = keys_at(tile), v = values_at(tile);
    if (tile > 0) {
      arrived();
      __syncthreads();  // the tile is there; weights, ds and the tile before have been read
    }
    if (tile + 1 < tiles) fetch_tile(tile + 1);
    if (row < p.N) {
#pragma unroll
      for (int chunk = 0; chunk < kLongTile; chunk += Block::kChunk) {
        typename Block::Sums s, x;
        typename Block::Pairs pairs;
        Block::product(s, from(q_rows), k, chunk);
        exponentials<Block>(s, lse_of + row + g, p.scale * kLog2E, p.M - tile * kLongTile - chunk);
        Block::round(pairs, s);
        Block::put(weights, row, chunk, pairs);
        Block::product(x, from(grad_rows), v, chunk);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int j = 0; j < Block::kChunk / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) s[m][j][i] *= x[m][j][i] - delta_of[row + g + 16 * m + i / 2 * 8];
          }
        }
        Block::round(pairs, s);
        Block::put(ds, row, chunk, pairs);
        Block::mix(grad_q, pairs, k, chunk);
      }
    }
    __syncthreads();  // weights and ds are there; the tile has been read
    const bool of_values = warp < 2;
    const int key = warp % 2 * Block::kRows;
    const Heads result = of_values ? v : k;
    typename Block::HeadSums c;
    Block::template sum_over_short<Block::E>(c, of_values ? weights : ds, key, of_values ? grad : q, 0, p.N);
    Block::put(result, key, c, of_values ? 1.0f : p.scale);
    __syncwarp();
    Block::template save<Block::E>(result, key, 0, Block::rows_of(of_values ? p.grad_v : p.grad_k, b, h),
                                   tile * kLongTile + key, p.M);
  }
  __syncthreads();  // the queries have been read
  Block::put(q, row, grad_q, p.scale);
  __syncwarp();
  Block::template save<Block::E>(q, row, 0, Block::rows_of(p.grad_q, b, h), row, p.N);
}

}  // namespace

void launch_cross_attention_keys_backward(const CrossAttentionKeysParams& params, cudaStream_t stream) {
  if (params.of.B * params.of.H == 0) return;
  for_cross_attention_block(params.of, [&](auto block) {
    using Block = decltype(block);
    launch_cross_attention<Block>(cross_attention_keys_backward_kernel<Block>, params, stream);
  });
}

}  // namespace memformer::ops
