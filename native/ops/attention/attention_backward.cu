#include "ops/attention/attention_block.cuh"

// With g = dL/dy, p the weights:   dL/dv = p^T g      ds = p (g v^T - rowsum(p g v^T))      dL/dq = ds k / sqrt(E)
// dL/dk = ds^T q / sqrt(E)
namespace memformer::ops {
namespace {

/// c (16 keys from `row`, E) = (weights of all queries)^T x. Causal: queries before the keys have no weight. Keys from
/// `seen` on have none of any query, and their columns may not have been written.
template <typename Block>
__device__ __forceinline__ void sum_over_queries(float (&c)[Block::E / 8][4], const typename Block::Weights& weights,
                                                 const typename Block::Heads& x, const AttentionParams& p, int row,
                                                 int seen) {
#pragma unroll
  for (int j = 0; j < Block::E / 8; ++j) c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0.0f;
  if (row >= seen) return;
#pragma unroll 4
  for (int query = p.causal ? row : 0; query < p.N; query += 16) {
    uint32_t a[4];
    weights.load_a_transposed(a, query, row);
    Block::mix(c, a, x, query / 16);
  }
}

/// Of rows divided by their root mean square, which `scales` has the inverse of: with y the normed row as it lies in
/// `normed`, turned or not, c becomes scale (c - y mean(c y)). Turning keeps the mean.
template <typename Block>
__device__ __forceinline__ void norm_back(float (&c)[Block::E / 8][4], const typename Block::Heads& normed,
                                          const float* scales, int row) {
  constexpr int E = Block::E;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = row + g + 8 * i;
    float2 y[E / 8];
    float dot = 0.0f;
#pragma unroll
    for (int j = 0; j < E / 8; ++j) {
      y[j] = unpair<typename Block::T>(*reinterpret_cast<const uint32_t*>(normed.at(at, 8 * j + 2 * t)));
      dot += c[j][2 * i] * y[j].x + c[j][2 * i + 1] * y[j].y;
    }
    dot += __shfl_xor_sync(kAllLanes, dot, 1);
    dot += __shfl_xor_sync(kAllLanes, dot, 2);
    const float mean = dot / E, by = scales[at];
#pragma unroll
    for (int j = 0; j < E / 8; ++j) {
      c[j][2 * i] = by * (c[j][2 * i] - y[j].x * mean);
      c[j][2 * i + 1] = by * (c[j][2 * i + 1] - y[j].y * mean);
    }
  }
}

/// c scaled, and turned by minus the angles: the gradient of what was turned.
template <typename Block>
__device__ __forceinline__ void turn_back(float (&c)[Block::E / 8][4], const AttentionParams& p, int row, int count) {
  constexpr int half = Block::E / 2;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < half / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int position = row + g + i * 4, e = 8 * j + 2 * t;
      float2 cos{1.0f, 1.0f}, sin{0.0f, 0.0f};
      if (p.cos != nullptr && position < count) {
        cos = *reinterpret_cast<const float2*>(p.cos + position * half + e);
        sin = *reinterpret_cast<const float2*>(p.sin + position * half + e);
      }
      const auto turn = [&](float& x, float& y, float cos_e, float sin_e) {
        const float first = x * p.scale, second = y * p.scale;
        x = first * cos_e + second * sin_e;
        y = second * cos_e - first * sin_e;
      };
      turn(c[j][i], c[j + half / 8][i], cos.x, sin.x);
      turn(c[j][i + 1], c[j + half / 8][i + 1], cos.y, sin.y);
    }
  }
}

/// The sums over the warp's rows [row, row + 16) to sums (E). Rows that do not exist are zero.
template <typename Block>
__device__ __forceinline__ void sum_rows(const typename Block::Heads& x, int row, float* sums) {
  const int e = threadIdx.x % kWarp * 2;
  if (e >= Block::E) return;
  float2 sum{};
#pragma unroll
  for (int t = 0; t < 16; ++t) {
    const float2 numbers = unpair<typename Block::T>(*reinterpret_cast<const uint32_t*>(x.at(row + t, e)));
    sum.x += numbers.x;
    sum.y += numbers.y;
  }
  *reinterpret_cast<float2*>(sums + e) = sum;
}

/// The weights and then ds lie in one (rows, rows) matrix: two would leave a multiprocessor one block. For the same
/// reason the gradients leave through the tiles whose contents have been read.
template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 256 / Block::kThreads * 2)
    attention_backward_kernel(const AttentionBackwardParams params) {
  using Heads = typename Block::Heads;
  using T = typename Block::T;
  constexpr int E = Block::E, kRows = Block::kRows;
  const AttentionParams& p = params.of;
  extern __shared__ uint4 memory[];
  auto* bytes = reinterpret_cast<unsigned char*>(memory);
  const auto heads = [&](int i) { return Heads{reinterpret_cast<T*>(bytes + i * Block::kHeadsBytes)}; };
  const Heads q = heads(0), k = heads(1), v = heads(2), grad = heads(3);
  const typename Block::Weights weights{reinterpret_cast<T*>(bytes + 4 * Block::kHeadsBytes)};
  auto* of_rows = reinterpret_cast<float*>(bytes + 4 * Block::kHeadsBytes + Block::kWeightsBytes);
  const typename Block::Scales scales{of_rows, of_rows + kRows};
  const int b = blockIdx.x / p.H, h = blockIdx.x % p.H, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int warp = warp_of_block(), row = 16 * warp, seen = Block::seen_of(p, b), keys = Block::keys_of(p, row, seen);
  Block::fetch(grad, params.grad, b, h, p.N);
  Block::load(q, k, v, p, b, h, scales);
  __syncthreads();

  uint32_t ds[Block::kBlocks][4];
  float c[E / 8][4] = {};
  /// A's four registers of the warp's queries and 16 keys, in the (rows, rows) matrix.
  const auto place = [&](int block, int i) {
    return reinterpret_cast<uint32_t*>(weights.at(row + g + i % 2 * 8, 16 * block + i / 2 * 8 + 2 * t));
  };
  if (row < p.N) {
    float s[kRows / 8][4], delta[2] = {};
    Block::product(s, q, k, row, keys);
    const auto [most, sum] = Block::exponentials(s, p, b, row, keys, seen);
    const float factor[2] = {1.0f / sum[0], 1.0f / sum[1]};
    Block::for_keys(keys, [&](int block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto& pairs = s[2 * block + i / 2];
        *place(block, i) = pair<T>(pairs[i % 2 * 2] * factor[i % 2], pairs[i % 2 * 2 + 1] * factor[i % 2]);
      }
    });
    Block::product(s, grad, v, row, keys);
    Block::for_keys(keys, [&](int block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 weight = unpair<T>(*place(block, i));
        const auto& pairs = s[2 * block + i / 2];
        delta[i % 2] += weight.x * pairs[i % 2 * 2] + weight.y * pairs[i % 2 * 2 + 1];
      }
    });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      delta[i] += __shfl_xor_sync(kAllLanes, delta[i], 1);
      delta[i] += __shfl_xor_sync(kAllLanes, delta[i], 2);
    }
    Block::for_keys(keys, [&](int block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 weight = unpair<T>(*place(block, i));
        const auto& pairs = s[2 * block + i / 2];
        ds[block][i] =
            pair<T>(weight.x * (pairs[i % 2 * 2] - delta[i % 2]), weight.y * (pairs[i % 2 * 2 + 1] - delta[i % 2]));
      }
      Block::mix(c, ds[block], k, block);
    });
    if (p.norm_q) norm_back<Block>(c, q, scales.q, row);
    turn_back<Block>(c, p, row, p.N);
  }
  __syncthreads();                       // the values have been read, all weights are there
  if (row < p.N) Block::put(v, row, c);  // dL/dq, over the values
  if (row < p.M) sum_over_queries<Block>(c, weights, grad, p, row, seen);
  __syncthreads();                          // weights and gradient have been read
  if (row < p.M) Block::put(grad, row, c);  // dL/dv, over the gradient
  if (row < p.N) {
    Block::for_keys(keys, [&](int block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) *place(block, i) = ds[block][i];
    });
  }
  __syncthreads();  // ds is there
  if (row < p.M) {
    sum_over_queries<Block>(c, weights, q, p, row, seen);
    if (p.norm_k) norm_back<Block>(c, k, scales.k, row);
    turn_back<Block>(c, p, row, p.M);
    Block::put(k, row, c);  // dL/dk, over the keys
  }
  __syncwarp();
  Block::save(v, params.grad_q, b, h, row, p.N);
  Block::save(k, params.grad_k, b, h, row, p.M);
  Block::save(grad, params.grad_v, b, h, row, p.M);
  if (params.partials == nullptr) return;
  __syncthreads();                                      // ds has been read
  auto* sums = reinterpret_cast<float*>(weights.data);  // (warps, 3, E)
  sum_rows<Block>(v, row, sums + (3 * warp + 0) * E);
  sum_rows<Block>(k, row, sums + (3 * warp + 1) * E);
  sum_rows<Block>(grad, row, sums + (3 * warp + 2) * E);
  __syncthreads();
  for (int column = threadIdx.x; column < 3 * E; column += Block::kThreads) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Block::kBlocks; ++i) sum += sums[3 * i * E + column];
    params.partials[((int64_t{b} * 3 + column / E) * p.H + h) * E + column % E] = sum;
  }
}

}  // namespace

void launch_attention_backward(const AttentionBackwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.of;
  if (p.B * p.H == 0) return;
  for_attention_block(p, [&](auto block) {
    using Block = decltype(block);
    launch_attention_block(attention_backward_kernel<Block>, Block::kThreads,
                           attention_block_bytes(Block::kRows, Block::E), p, params, stream);
  });
}

}  // namespace memformer::ops
