// Attention of few heads over more keys than a block takes: a cluster of blocks for each head, 128 keys a block, whose
// results are then brought to the largest score of all and added. A GPU has more multiprocessors than heads.
#include "ops/attention/split_attention.cuh"
#include "core/cuda/cluster.cuh"
#include "ops/attention/attention_block.cuh"
#include "ops/attention/attention_block_size.h"

namespace memformer::ops {
namespace {

/// What a block hands on: its queries' weighted sums of values and, beside each other, the largest score times log2(e)
/// and the sum of the weights. They lie where keys and values have been.
template <typename Block>
struct Part {
  static constexpr int kStride = Block::E + 4;  // numbers of a row, so that rows lie in different banks
  static constexpr int kBytes = Block::kRows * (kStride * 4 + 8);
  static_assert(kBytes <= 2 * Block::kHeadsBytes);

  explicit __device__ __forceinline__ Part(void* memory)
      : scales(static_cast<float2*>(memory)), y(reinterpret_cast<float*>(scales + Block::kRows)) {}
  float2* scales;  // (queries)
  float* y;        // (queries, kStride)
};

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads) split_attention_kernel(const AttentionParams all) {
  using Heads = typename Block::Heads;
  using T = typename Block::T;
  constexpr int E = Block::E;
  static_assert(Block::kRows == kSplitKeys);
  extern __shared__ uint4 memory[];
  auto* bytes = reinterpret_cast<unsigned char*>(memory);
  const auto heads = [&](int i) { return Heads{reinterpret_cast<T*>(bytes + i * Block::kHeadsBytes)}; };
  const Heads q = heads(0), k = heads(1), v = heads(2);
  const int splits = (all.M + kSplitKeys - 1) / kSplitKeys, split = blockIdx.x % splits, head = blockIdx.x / splits;
  const int b = head / all.H, h = head % all.H, row = 16 * warp_of_block(), first = split * Block::kRows;

  auto p = all;  // of this block's keys
  p.k.data = static_cast<T*>(all.k.data) + first * all.k.t;
  p.v.data = static_cast<T*>(all.v.data) + first * all.v.t;
  p.M = min(Block::kRows, all.M - first);
  wait_for_previous();
  Block::load(q, k, v, p, b, h);
  __syncthreads();
  float s[Block::kRows / 8][4], y[E / 8][4];
  Block::product(s, q, k, row, p.M);
  const auto [most, sum] = Block::exponentials(s, p, b, row, p.M, p.M);
  Block::mix_all(y, s, v, p.M);
  __syncthreads();  // keys and values have been read
  const Part<Block> part(bytes + Block::kHeadsBytes);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int own = row + g + 8 * i;
    if (t == 0) part.scales[own] = {most[i], sum[i]};
#pragma unroll
    for (int j = 0; j < E / 8; ++j)
      *reinterpret_cast<float2*>(part.y + own * Part<Block>::kStride + 8 * j + 2 * t) = {y[j][2 * i], y[j][2 * i + 1]};
  }
  meet_in_cluster();

  // Each block brings some of the queries together, four numbers a thread.
  const int rows = (all.N + splits - 1) / splits, packs = E / 4;
  for (int i = threadIdx.x; i < rows * packs; i += Block::kThreads) {
    const int own = split * rows + i / packs, e = i % packs * 4;
    if (own >= all.N) continue;
    float2 scales[kMostSplits];
    float4 parts[kMostSplits];
    float largest = -INFINITY, total = 0.0f;
#pragma unroll
    for (int other = 0; other < kMostSplits; ++other) {
      if (other >= splits) continue;
      scales[other] = load_from_cluster(part.scales + own, other);
      parts[other] = load_from_cluster(reinterpret_cast<const float4*>(part.y + own * Part<Block>::kStride + e), other);
      largest = fmaxf(largest, scales[other].x);
    }
    float result[4] = {};
#pragma unroll
    for (int other = 0; other < kMostSplits; ++other) {
      if (other >= splits) continue;
      const float by = exp2f(scales[other].x - largest);
      total = fmaf(by, scales[other].y, total);
      const float numbers[4] = {parts[other].x, parts[other].y, parts[other].z, parts[other].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) result[j] = fmaf(by, numbers[j], result[j]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) result[j] /= total;
    cuda::store(result, static_cast<T*>(all.y.data) + b * all.y.b + h * all.y.h + own * all.y.t + e);
  }
  meet_in_cluster();  // no block is gone while another reads of it
}

/// Of a head.
int blocks_of(const AttentionParams& p) { return (p.M + kSplitKeys - 1) / kSplitKeys; }

/// Calls body(kernel, threads, bytes) of the kernel for these.
template <typename Body>
auto for_kernel(const AttentionParams& p, Body&& body) {
  const auto of = [&](auto type) {
    using T = typename decltype(type)::type;
    using Narrow = AttentionBlock<T, 32, 128>;
    using Wide = AttentionBlock<T, 64, 128>;
    return p.E == 32 ? body(split_attention_kernel<Narrow>, Narrow::kThreads, 3 * Narrow::kHeadsBytes)
                     : body(split_attention_kernel<Wide>, Wide::kThreads, 3 * Wide::kHeadsBytes);
  };
  return p.dtype == Dtype::f16 ? of(Type<__half>()) : of(Type<__nv_bfloat16>());
}

}  // namespace

bool fits_split_attention(const AttentionParams& p) {
  return for_kernel(p, [&](auto kernel, int threads, int bytes) {
    return launches_clusters(kernel, static_cast<unsigned>(blocks_of(p)), threads, bytes);
  });
}

void launch_split_attention(const AttentionParams& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(blocks_of(p));
  for_kernel(p, [&](auto kernel, int threads, int bytes) {
    cuda::launch<AttentionParams>(kernel, blocks * p.B * p.H, threads, bytes, stream, p, /*early=*/true, blocks);
  });
}

}  // namespace memformer::ops
