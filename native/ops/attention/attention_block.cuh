// Shared by attention's forward and backward kernels: loading and storing a head's tiles, and its weights. A block
// requests everything at once, and the loops over keys have one branch: a kernel over 128 tokens ends within
// microseconds and would otherwise spend them waiting.
#pragma once
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/mma.cuh"
#include "ops/attention/attention.cuh"
#include "ops/attention/attention_block_size.h"

namespace memformer::ops {

using namespace cuda;

/// A block of `rows` queries and keys at most, 16 queries (or keys) a warp. T has two bytes.
template <typename scalar_t, int width, int rows>
struct AttentionBlock {
  using T = scalar_t;
  static constexpr int E = width, kRows = rows, kThreads = 2 * rows, kSteps = E / 16, kBlocks = rows / 16;
  using Heads = SharedMatrix<T, E + 8>;       // (rows, E)
  using Weights = SharedMatrix<T, rows + 8>;  // (rows, rows)
  static constexpr int kHeadsBytes = rows * (E + 8) * 2, kWeightsBytes = rows * (rows + 8) * 2;
  static constexpr int kScalesBytes = rows * 4;
  static_assert(4 * kHeadsBytes + kWeightsBytes + 2 * kScalesBytes == attention_block_bytes(rows, E));

  /// A thread brings, and prepares, eight numbers of a head's first half and those that they are paired with, of kTurns
  /// rows.
  static constexpr int kTurns = E / 32;
  static __device__ __forceinline__ int row_of(int turn) { return threadIdx.x / (E / 16) + turn * kThreads / (E / 16); }
  static __device__ __forceinline__ int column_of() { return threadIdx.x % (E / 16) * 8; }

  /// Asks for rows [0, count) of a head; what is beyond is zero. All is there after arrived() and a barrier.
  static __device__ __forceinline__ void fetch(const Heads& to, const AttentionHeads& from, int b, int h, int count) {
    const auto* data = static_cast<const T*>(from.data) + b * from.b + h * from.h + column_of();
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int t = row_of(turn), bytes = t < count ? 16 : 0;
      const auto* row = data + (t < count ? t * from.t : 0);
      copy_16_bytes(to.at(t, column_of()), row, bytes);
      copy_16_bytes(to.at(t, column_of() + E / 2), row + E / 2, bytes);
    }
  }

  /// 1 / root mean square of each row of q and k, in shared memory; null: not wanted.
  struct Scales {
    float *q = nullptr, *k = nullptr;
  };

  /// q, k, v of head h of row b, with the bias, normed and turned by their position. A barrier has to follow.
  static __device__ __forceinline__ void load(const Heads& q, const Heads& k, const Heads& v, const AttentionParams& p,
                                              int b, int h, const Scales& scales = {}) {
    fetch(q, p.q, b, h, p.N);
    fetch(k, p.k, b, h, p.M);
    fetch(v, p.v, b, h, p.M);
    const int e = column_of();
    float cos[kTurns][8] = {}, sin[kTurns][8] = {};
    Pack<T, 8> low[3] = {}, high[3] = {};  // of the bias
    if (p.cos != nullptr) {
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        if (row_of(turn) >= p.N) continue;
        cuda::load(p.cos + row_of(turn) * (E / 2) + e, cos[turn]);
        cuda::load(p.sin + row_of(turn) * (E / 2) + e, sin[turn]);
      }
    }
    if (p.bias != nullptr) {
#pragma unroll
      for (int part = 0; part < 3; ++part) {
        const auto* bias = static_cast<const T*>(p.bias) + (part * p.H + h) * E + e;
        low[part] = *reinterpret_cast<const Pack<T, 8>*>(bias);
        high[part] = *reinterpret_cast<const Pack<T, 8>*>(bias + E / 2);
      }
    }
    arrived();
    const bool changes = p.bias != nullptr || p.cos != nullptr;
    if (!changes && !p.norm_q && !p.norm_k) return;
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int t = row_of(turn);
      if (changes || p.norm_q) prepare<true>(q, t, p.N, low[0], high[0], cos[turn], sin[turn], p, p.norm_q, scales.q);
      if (changes || p.norm_k) prepare<true>(k, t, p.M, low[1], high[1], cos[turn], sin[turn], p, p.norm_k, scales.k);
      if (p.bias != nullptr) prepare<false>(v, t, p.M, low[2], high[2], cos[turn], sin[turn], p, false, nullptr);
    }
  }

  /// The thread's numbers of row t, if it is one of `count`: the bias added, normed, turned, rounded once. All threads
  /// of a warp come here: those beside this one, E / 16 in all, have the rest of the row.
  template <bool turns>
  static __device__ __forceinline__ void prepare(const Heads& heads, int t, int count, const Pack<T, 8>& low,
                                                 const Pack<T, 8>& high, const float (&cos)[8], const float (&sin)[8],
                                                 const AttentionParams& p, bool norms, float* scales) {
    float x[8], y[8];
    cuda::load(heads.at(t, column_of()), x);
    cuda::load(heads.at(t, column_of() + E / 2), y);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] += widen(low.value[i]);
      y[i] += widen(high.value[i]);
    }
    if (norms) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += x[i] * x[i] + y[i] * y[i];
#pragma unroll
      for (int offset = E / 32; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
      const float by = 1.0f / sqrtf(sum / E + p.norm_eps);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] *= by;
        y[i] *= by;
      }
      if (scales != nullptr && column_of() == 0) scales[t] = by;
    }
    if (t >= count) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (!turns || p.cos == nullptr) continue;
      const float first = x[i];
      x[i] = first * cos[i] - y[i] * sin[i];
      y[i] = y[i] * cos[i] + first * sin[i];
    }
    cuda::store(x, heads.at(t, column_of()));
    cuda::store(y, heads.at(t, column_of() + E / 2));
  }

  /// The warp's 16 rows from `row` of the (rows, E) sums `c`, rounded, to shared memory.
  static __device__ __forceinline__ void put(const Heads& to, int row, const float (&c)[E / 8][4]) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < E / 8; ++j) {
      *reinterpret_cast<uint32_t*>(to.at(row + g, 8 * j + 2 * t)) = pair<T>(c[j][0], c[j][1]);
      *reinterpret_cast<uint32_t*>(to.at(row + g + 8, 8 * j + 2 * t)) = pair<T>(c[j][2], c[j][3]);
    }
  }

  /// The warp's 16 rows from `row`, of which there are `count` in all, to memory.
  static __device__ __forceinline__ void save(const Heads& from, const AttentionHeads& to, int b, int h, int row,
                                              int count) {
    auto* data = static_cast<T*>(to.data) + b * to.b + h * to.h;
#pragma unroll
    for (int i = 0; i < 16 * E / 8; i += kWarp) {
      const int at = i + threadIdx.x % kWarp, t = row + at / (E / 8), e = at % (E / 8) * 8;
      if (t < count) *reinterpret_cast<uint4*>(data + t * to.t + e) = *reinterpret_cast<const uint4*>(from.at(t, e));
    }
  }

  /// How many keys of row b are seen at all.
  static __device__ __forceinline__ int seen_of(const AttentionParams& p, int b) {
    return p.lengths == nullptr ? p.M : max(1, min(p.M, p.lengths[b]));
  }

  /// How many of `seen` keys the warp's queries from `row` may see: none beyond.
  static __device__ __forceinline__ int keys_of(const AttentionParams& p, int row, int seen) {
    return p.causal ? min(seen, row + 16) : seen;
  }

  /// Calls body(block) for every 16 keys, the second half of them only if there are that many.
  template <typename Body>
  static __device__ __forceinline__ void for_keys(int keys, Body&& body) {
#pragma unroll
    for (int block = 0; block < kBlocks / 2; ++block) body(block);
    if (keys <= rows / 2) return;
#pragma unroll
    for (int block = kBlocks / 2; block < kBlocks; ++block) body(block);
  }

  /// c = (16 queries of a) times the keys, transposed.
  static __device__ __forceinline__ void product(float (&c)[rows / 8][4], const Heads& a, const Heads& b, int row,
                                                 int keys) {
    uint32_t of_row[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) a.load_a(of_row[step], row, 16 * step);
    for_keys(keys, [&](int block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[2 * block][i] = c[2 * block + 1][i] = 0.0f;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t of_keys[4];
        b.load_b_transposed(of_keys, 16 * block, 16 * step);
        mma<T>(c[2 * block], of_row[step], of_keys[0], of_keys[1]);
        mma<T>(c[2 * block + 1], of_row[step], of_keys[2], of_keys[3]);
      }
    });
  }

  /// c += (16 rows of weights, by blocks of 16 keys) times x.
  static __device__ __forceinline__ void mix(float (&c)[E / 8][4], const uint32_t (&weights)[4], const Heads& x,
                                             int block) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t of_x[4];
      x.load_b(of_x, 16 * block, 16 * step);
      mma<T>(c[2 * step], weights, of_x[0], of_x[1]);
      mma<T>(c[2 * step + 1], weights, of_x[2], of_x[3]);
    }
  }

  /// Of the lane's two rows, g and g + 8: their largest score times log2(e), and the sums of the exponentials.
  struct Sums {
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  };

  /// Scores to exp(score - the row's largest), 0 for keys not seen.
  static __device__ __forceinline__ Sums exponentials(float (&s)[rows / 8][4], const AttentionParams& p, int b, int row,
                                                      int keys, int seen) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    const float scale = p.scale * kLog2E;
    Sums of_rows;
    auto& [most, sum] = of_rows;
    int limit[2];  // keys seen, less the lane's first
#pragma unroll
    for (int i = 0; i < 2; ++i) limit[i] = (p.causal ? min(seen, row + g + 8 * i + 1) : seen) - 2 * t;
    if (p.mask != nullptr) hide(s, p, b, row, keys);
    for_keys(keys, [&](int block) {
#pragma unroll
      for (int j = 2 * block; j < 2 * block + 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[j][i] = 8 * j + i % 2 < limit[i / 2] ? s[j][i] : -INFINITY;
          most[i / 2] = fmaxf(most[i / 2], s[j][i]);
        }
      }
    });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      most[i] = fmaxf(most[i], __shfl_xor_sync(kAllLanes, most[i], 1));
      most[i] = scale * fmaxf(most[i], __shfl_xor_sync(kAllLanes, most[i], 2));
    }
    for_keys(keys, [&](int block) {
#pragma unroll
      for (int j = 2 * block; j < 2 * block + 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i / 2] += s[j][i] = exp2f(fmaf(s[j][i], scale, -most[i / 2]));
      }
    });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    }
    return of_rows;
  }

  /// y = (16 rows of weights, the exponentials of scores) times v.
  static __device__ __forceinline__ void mix_all(float (&y)[E / 8][4], const float (&s)[rows / 8][4], const Heads& v,
                                                 int keys) {
#pragma unroll
    for (int j = 0; j < E / 8; ++j) y[j][0] = y[j][1] = y[j][2] = y[j][3] = 0.0f;
    for_keys(keys, [&](int block) {
      const auto &left = s[2 * block], &right = s[2 * block + 1];
      const uint32_t weights[4] = {pair<T>(left[0], left[1]), pair<T>(left[2], left[3]), pair<T>(right[0], right[1]),
                                   pair<T>(right[2], right[3])};
      mix(y, weights, v, block);
    });
  }

  /// Scores behind the mask to minus infinity.
  static __device__ __forceinline__ void hide(float (&s)[rows / 8][4], const AttentionParams& p, int b, int row,
                                              int keys) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    const bool* mask = p.mask + b * p.mask_b;
    for_keys(keys, [&](int block) {
#pragma unroll
      for (int j = 2 * block; j < 2 * block + 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int query = row + g + i / 2 * 8, key = 8 * j + 2 * t + i % 2;
          if (query < p.N && key < p.M && !mask[query * p.mask_query + key]) s[j][i] = -INFINITY;
        }
      }
    });
  }
};

/// Calls `body(AttentionBlock<...>())` with the smallest block that a head fits in; E is 32 or 64, N and M are at most
/// 128.
template <typename Body>
void for_attention_block(const AttentionParams& p, Body&& body) {
  const auto of = [&](auto type) {
    using T = typename decltype(type)::type;
    const bool few = attention_rows(p.N, p.M) == 64;
    if (p.E == 32) return few ? body(AttentionBlock<T, 32, 64>()) : body(AttentionBlock<T, 32, 128>());
    return few ? body(AttentionBlock<T, 64, 64>()) : body(AttentionBlock<T, 64, 128>());
  };
  if (p.dtype == Dtype::f16)
    of(Type<__half>());
  else
    of(Type<__nv_bfloat16>());
}

/// A launch with more shared memory than a kernel gets unasked; `early`: see core/cuda/dependent_launch.cuh.
template <typename Kernel, typename Params>
void launch_attention_block(Kernel* kernel, int threads, int bytes, const AttentionParams& p, const Params& params,
                            cudaStream_t stream, bool early = false) {
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) return;
  cuda::launch<Params>(kernel, static_cast<unsigned>(p.B) * p.H, threads, bytes, stream, params, early);
}

}  // namespace memformer::ops
