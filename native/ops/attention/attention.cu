#include "ops/attention/attention_block.cuh"

namespace memformer::ops {
namespace {

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 256 / Block::kThreads * 2)
    attention_forward_kernel(const AttentionParams p) {
  using Heads = typename Block::Heads;
  using T = typename Block::T;
  constexpr int E = Block::E;
  extern __shared__ uint4 memory[];
  auto* bytes = reinterpret_cast<unsigned char*>(memory);
  const auto heads = [&](int i) { return Heads{reinterpret_cast<T*>(bytes + i * Block::kHeadsBytes)}; };
  const Heads q = heads(0), k = heads(1), v = heads(2);
  const int b = blockIdx.x / p.H, h = blockIdx.x % p.H, row = 16 * warp_of_block();
  wait_for_previous();
  const int seen = Block::seen_of(p, b), keys = Block::keys_of(p, row, seen);
  Block::load(q, k, v, p, b, h);
  __syncthreads();
  if (row >= p.N) return;

  float s[Block::kRows / 8][4], y[E / 8][4];
  Block::product(s, q, k, row, keys);
  const auto [most, sum] = Block::exponentials(s, p, b, row, keys, seen);
  Block::mix_all(y, s, v, keys);
  const float factor[2] = {1.0f / sum[0], 1.0f / sum[1]};
#pragma unroll
  for (int j = 0; j < E / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) y[j][i] *= factor[i / 2];
  }
  __syncwarp();  // its queries have been read
  Block::put(q, row, y);
  __syncwarp();
  Block::save(q, p.y, b, h, row, p.N);
}

}  // namespace

void launch_attention_forward(const AttentionParams& params, cudaStream_t stream) {
  if (params.B * params.H * params.N == 0) return;
  for_attention_block(params, [&](auto block) {
    using Block = decltype(block);
    launch_attention_block(attention_forward_kernel<Block>, Block::kThreads, 3 * Block::kHeadsBytes, params, params,
                           stream, /*early=*/true);
  });
}

}  // namespace memformer::ops
