// Shared by both backward kernels with one long side: loading and storing tiles, and a warp's products. A warp has 32
// rows of the short side, not 16: these products are bound by loads from shared memory, and each load then serves two.
#pragma once
#include "core/cuda/mma.cuh"
#include "ops/attention/attention_block_size.h"
#include "ops/attention/cross_attention.cuh"

namespace memformer::ops {

using namespace cuda;

/// T has two bytes. Of a tile's 64 rows a warp takes kChunk at a time: its registers hold no more.
template <typename scalar_t, int width>
struct CrossAttentionBlock {
  using T = scalar_t;
  static constexpr int E = width, kRows = 32, kThreads = kShortRows / kRows * kWarp, kChunk = 32, kSteps = E / 16;
  using Heads = SharedMatrix<T, E + 8>;            // (rows, E)
  using Weights = SharedMatrix<T, kLongTile + 8>;  // (short, long)
  static constexpr int kShortBytes = kShortRows * (E + 8) * 2, kTileBytes = kLongTile * (E + 8) * 2;
  static constexpr int kWeightsBytes = kShortRows * (kLongTile + 8) * 2, kBytes = cross_attention_bytes(E);

  /// C of 32 rows and kChunk columns: [16 rows][8 columns], and the same as A, in pairs: [16 rows][16 columns].
  using Sums = float[2][kChunk / 8][4];
  using Pairs = uint32_t[2][kChunk / 16][4];
  /// C of 32 rows and E columns; A of a head's 32 rows.
  using HeadSums = float[2][E / 8][4];
  using HeadRows = uint32_t[2][kSteps][4];

  /// Rows of a head from `data` on, `stride` numbers apart.
  struct Rows {
    T* data;
    int64_t stride;
  };
  static __device__ __forceinline__ Rows rows_of(const AttentionHeads& heads, int b, int h) {
    return {static_cast<T*>(heads.data) + b * heads.b + h * heads.h, heads.t};
  }

  /// Asks for `rows` rows from `first` on, of `count`; what is beyond is zero.
  template <int rows>
  static __device__ __forceinline__ void fetch(const Heads& to, const Rows& from, int first, int count) {
    constexpr int at_once = kThreads / (E / 8);  // rows
    const int row = threadIdx.x / (E / 8), column = threadIdx.x % (E / 8) * 8;
    const T* data = from.data + (first + row) * from.stride + column;
#pragma unroll
    for (int i = 0; i < rows; i += at_once, data += at_once * from.stride) {
      const bool exists = first + row + i < count;
      copy_16_bytes(to.at(row + i, column), exists ? data : from.data, exists ? 16 : 0);
    }
  }

  /// Rows [row, row + 32) of `columns` numbers from `column` on, as the warp has them in shared memory, to rows from
  /// `first` on, of `count`.
  template <int columns>
  static __device__ __forceinline__ void save(const Heads& from, int row, int column, const Rows& to, int first,
                                              int count) {
    constexpr int at_once = kWarp / (columns / 8);  // rows
    const int t = threadIdx.x % kWarp / (columns / 8), e = column + threadIdx.x % (columns / 8) * 8;
    T* data = to.data + (first + t) * to.stride + e;
#pragma unroll
    for (int i = 0; i < kRows; i += at_once, data += at_once * to.stride) {
      if (first + t + i < count)
        *reinterpret_cast<uint4*>(data) = *reinterpret_cast<const uint4*>(from.at(row + t + i, e));
    }
  }

  /// The head's rows [row, row + 32), times `factor`, to shared memory.
  static __device__ __forceinline__ void put(const Heads& to, int row, const HeadSums& c, float factor) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < E / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to.at(row + 16 * m + g, 8 * j + 2 * t)) =
            pair<T>(c[m][j][0] * factor, c[m][j][1] * factor);
        *reinterpret_cast<uint32_t*>(to.at(row + 16 * m + g + 8, 8 * j + 2 * t)) =
            pair<T>(c[m][j][2] * factor, c[m][j][3] * factor);
      }
    }
  }

  /// A's pairs to rows from `row`, columns from `column` of the (short, long) matrix.
  static __device__ __forceinline__ void put(const Weights& to, int row, int column, const Pairs& pairs) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int block = 0; block < kChunk / 16; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          *reinterpret_cast<uint32_t*>(to.at(row + 16 * m + g + i % 2 * 8, column + 16 * block + i / 2 * 8 + 2 * t)) =
              pairs[m][block][i];
        }
      }
    }
  }

  /// C, rounded, in the order of A.
  static __device__ __forceinline__ void round(Pairs& to, const Sums& c) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int block = 0; block < kChunk / 16; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          to[m][block][i] = pair<T>(c[m][2 * block + i / 2][i % 2 * 2], c[m][2 * block + i / 2][i % 2 * 2 + 1]);
      }
    }
  }

  static __device__ __forceinline__ void load_rows(HeadRows& a, const Heads& from, int row) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) from.load_a(a[m][step], row + 16 * m, 16 * step);
    }
  }

  /// c = (32 rows) times (kChunk rows of b from `row`), transposed; `of_rows(step, a)` gives A of the step.
  template <typename OfRows>
  static __device__ __forceinline__ void product(Sums& c, OfRows&& of_rows, const Heads& b, int row) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) c[m][j][0] = c[m][j][1] = c[m][j][2] = c[m][j][3] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[2][4];
      of_rows(step, a);
#pragma unroll
      for (int block = 0; block < kChunk / 16; ++block) {
        uint32_t of_b[4];
        b.load_b_transposed(of_b, row + 16 * block, 16 * step);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma<T>(c[m][2 * block], a[m], of_b[0], of_b[1]);
          mma<T>(c[m][2 * block + 1], a[m], of_b[2], of_b[3]);
        }
      }
    }
  }

  /// c += (32 rows of weights, kChunk columns) times as many rows of x from `row`.
  static __device__ __forceinline__ void mix(HeadSums& c, const Pairs& weights, const Heads& x, int row) {
#pragma unroll
    for (int block = 0; block < kChunk / 16; ++block) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t of_x[4];
        x.load_b(of_x, row + 16 * block, 16 * step);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma<T>(c[m][2 * step], weights[m][block], of_x[0], of_x[1]);
          mma<T>(c[m][2 * step + 1], weights[m][block], of_x[2], of_x[3]);
        }
      }
    }
  }

  /// c = (32 columns from `column` of the (short, long) matrix)^T times `columns` columns of x from `x_column`, over
  /// `rows` rows.
  template <int columns>
  static __device__ __forceinline__ void sum_over_short(float (&c)[2][columns / 8][4], const Weights& weights,
                                                        int column, const Heads& x, int x_column, int rows) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < columns / 8; ++j) c[m][j][0] = c[m][j][1] = c[m][j][2] = c[m][j][3] = 0.0f;
    }
#pragma unroll 4
    for (int row = 0; row < rows; row += 16) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) weights.load_a_transposed(a[m], row, column + 16 * m);
#pragma unroll
      for (int step = 0; step < columns / 16; ++step) {
        uint32_t of_x[4];
        x.load_b(of_x, row, x_column + 16 * step);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma<T>(c[m][2 * step], a[m], of_x[0], of_x[1]);
          mma<T>(c[m][2 * step + 1], a[m], of_x[2], of_x[3]);
        }
      }
    }
  }
};

/// Calls `launch(CrossAttentionBlock<...>())` with the block of the heads.
template <typename Body>
void for_cross_attention_block(const CrossAttentionParams& p, Body&& body) {
  const auto of = [&](auto type) {
    using T = typename decltype(type)::type;
    return p.E == 32 ? body(CrossAttentionBlock<T, 32>()) : body(CrossAttentionBlock<T, 64>());
  };
  if (p.dtype == Dtype::f16)
    of(Type<__half>());
  else
    of(Type<__nv_bfloat16>());
}

/// A block a head, with more shared memory than a kernel gets unasked.
template <typename Block, typename Params>
void launch_cross_attention(void (*kernel)(Params), const Params& params, cudaStream_t stream) {
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Block::kBytes) != cudaSuccess) return;
  kernel<<<static_cast<unsigned>(params.of.B) * params.of.H, Block::kThreads, Block::kBytes, stream>>>(params);
}

}  // namespace memformer::ops
