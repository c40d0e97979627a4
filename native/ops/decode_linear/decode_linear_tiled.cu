// Products of many columns or many rows. A block takes 16, 32 or 64 rows and goes through the columns 64 at a time,
// both in shared memory, so that what is read of either serves all of the other; the weights of the next 64 columns are
// on their way while it multiplies by these. A number's terms are those of decode_linear_row.cuh, in that order: a
// share from zero, chunk by chunk, and the shares one after the other.
#include <algorithm>

#include "core/cuda/dependent_launch.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"
#include "ops/decode_linear/decode_linear_tiled.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWarps = kDecodeShares, kThreads = kWarps * kWarp;
constexpr int kColumns = 64;
constexpr int kPad = 32;                  // numbers behind a row in shared memory: two rows' lanes then read all banks
constexpr int kSumStride = kColumns + 8;  // of sums, so that four rows lie in different banks
constexpr int kParts = 4;                 // of the rows' inner axis, which come one after the other

/// `chunks` of the inner axis; a warp has row_tiles times 16 rows and column_tiles times 8 columns.
template <typename scalar_t, int inner_chunks, int tile_rows, int row_tiles, int column_tiles>
struct Tiled {
  using T = scalar_t;
  static constexpr int chunks = inner_chunks, rows = tile_rows, m_tiles = row_tiles, n_tiles = column_tiles;
  static constexpr int warps_across = kColumns / 8 / n_tiles;
  static constexpr int K = chunks * kDecodeChunk, stride = K + kPad, of_share = chunks / kDecodeShares;
  static constexpr int row_numbers = rows * stride, column_numbers = kColumns * stride;
  static constexpr size_t bytes = sizeof(T) * (row_numbers + 2 * column_numbers) + sizeof(float) * rows * kSumStride;
  static_assert(rows / (16 * m_tiles) * warps_across == kWarps && chunks % kDecodeShares == 0 && chunks % kParts == 0);
};

__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until all but the last `count` groups of what this thread has asked for are there, for itself.
template <int count>
__device__ __forceinline__ void groups_arrived() {
  asm volatile("cp.async.wait_group %0;" ::"n"(count) : "memory");
}

/// What a warp multiplies of a chunk, both in shared memory.
template <typename Tile>
struct Operands {
  using T = typename Tile::T;
  uint4 rows[Tile::m_tiles][2], columns[Tile::n_tiles];

  __device__ __forceinline__ void load(const T* row, const T* column, int chunk) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, k = chunk * kDecodeChunk + lane % 4 * 8;
#pragma unroll
    for (int m = 0; m < Tile::m_tiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        rows[m][half] = *reinterpret_cast<const uint4*>(row + (16 * m + 8 * half + g) * Tile::stride + k);
#pragma unroll
    for (int n = 0; n < Tile::n_tiles; ++n)
      columns[n] = *reinterpret_cast<const uint4*>(column + (8 * n + g) * Tile::stride + k);
  }
};

/// Asks for part `part` of `rows` rows of a matrix, of which there are `count` from `from` on; the others are zeros.
template <typename Tile, int rows>
__device__ __forceinline__ void ask(typename Tile::T* to, const void* matrix, int64_t from, int64_t count, int part) {
  constexpr int K = Tile::K / kParts, packs = K / 8;
  const auto* data = static_cast<const typename Tile::T*>(matrix) + from * Tile::K + part * K;
#pragma unroll
  for (int i = threadIdx.x; i < rows * packs; i += kThreads) {
    const int r = i / packs, k = i % packs * 8;
    const bool there = r < count;
    copy_16_bytes(to + r * Tile::stride + part * K + k, data + (there ? r * Tile::K + k : 0), there ? 16 : 0);
  }
}

template <typename Tile, bool normed>
__global__ void __launch_bounds__(kThreads, 1) decode_tiled_kernel(const DecodeLinearParams p) {
  using T = typename Tile::T;
  constexpr int stride = Tile::stride;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* rows = reinterpret_cast<T*>(shared);
  auto* all_weights = rows + Tile::row_numbers;
  auto* sums_of = reinterpret_cast<float*>(all_weights + 2 * Tile::column_numbers);  // (rows, kSumStride)
  const SharedNorm<T> norm(p, sums_of + Tile::rows * kSumStride);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.y} * Tile::rows, step = int64_t{gridDim.x} * kColumns;
  const int64_t there = min(int64_t{Tile::rows}, p.R - first_row);
  // Of the warp's numbers in the tile.
  const int row = warp / Tile::warps_across * 16 * Tile::m_tiles,
            own_column = warp % Tile::warps_across * 8 * Tile::n_tiles;

  const auto ask_weights = [&](int buffer, int64_t of_column) {
    if (of_column < p.N)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        ask<Tile, kColumns>(all_weights + buffer * Tile::column_numbers, p.weight, of_column, p.N - of_column, part);
    end_group();
  };
  int64_t column = int64_t{blockIdx.x} * kColumns;
  ask_weights(0, column);
  if constexpr (normed) norm.ask(p);
  wait_for_previous();
  let_next_begin();
  if constexpr (normed) {
    norm_rows<T, Tile::rows, kPad>(p, first_row, blockIdx.x == 0, norm, rows);
  } else {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      ask<Tile, Tile::rows>(rows, p.x, first_row, there, part);
      end_group();
    }
  }
  bool comes = !normed;  // the rows, part by part
  for (int buffer = 0; column < p.N; column += step, buffer ^= 1) {
    if (!comes) {
      groups_arrived<0>();
      __syncthreads();
    }
    ask_weights(buffer ^ 1, column + step);
    const T* weights = all_weights + buffer * Tile::column_numbers;
    float c[Tile::m_tiles][Tile::n_tiles][4] = {}, sums[Tile::m_tiles][Tile::n_tiles][4] = {};
    const auto multiply = [&](int part) {
      constexpr int count = Tile::chunks / kParts;
      Operands<Tile> held[2];
      const auto load = [&](int i) {
        held[i % 2].load(rows + row * stride, weights + own_column * stride, part * count + i);
      };
      load(0);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        if (i + 1 < count) load(i + 1);  // on its way while the tensor cores have this one
        add_chunk<T>(c, held[i % 2].rows, held[i % 2].columns);
        if ((part * count + i + 1) % Tile::of_share != 0) continue;
#pragma unroll
        for (int m = 0; m < Tile::m_tiles; ++m)
#pragma unroll
          for (int n = 0; n < Tile::n_tiles; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              sums[m][n][j] += c[m][n][j];
              c[m][n][j] = 0;
            }
      }
    };
    if (comes) groups_arrived<4>(), __syncthreads();  // three parts and the next weights are behind
    multiply(0);
    if (comes) groups_arrived<3>(), __syncthreads();
    multiply(1);
    if (comes) groups_arrived<2>(), __syncthreads();
    multiply(2);
    if (comes) groups_arrived<1>(), __syncthreads();
    multiply(3);
    comes = false;
    // By way of shared memory, so that what is stored together lies side by side.
#pragma unroll
    for (int m = 0; m < Tile::m_tiles; ++m)
#pragma unroll
      for (int n = 0; n < Tile::n_tiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; j += 2)
          *reinterpret_cast<float2*>(sums_of + (row + 16 * m + j / 2 * 8 + g) * kSumStride + own_column + 8 * n +
                                     2 * t) = {sums[m][n][j], sums[m][n][j + 1]};
    __syncthreads();
    constexpr int lanes = kColumns / 4;
    const int apart = p.widened ? lanes : 1, n = threadIdx.x % lanes * (p.widened ? 1 : 4);
#pragma unroll
    for (int r = threadIdx.x / lanes; r < Tile::rows; r += kThreads / lanes) {
      float sum[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] = sums_of[r * kSumStride + n + j * apart];
      if (r < there) store_sums<T>(p, first_row + r, column + n, apart, sum);
    }
  }
}

template <typename Tile, bool normed>
bool launch(const DecodeLinearParams& p, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  const auto tiles = static_cast<unsigned>(ceil_div(p.N, kColumns)),
             down = static_cast<unsigned>(ceil_div(p.R, Tile::rows)),
             across = std::min(tiles, std::max(1u, static_cast<unsigned>(multiprocessors) / down));
  const size_t bytes = Tile::bytes + (normed ? SharedNorm<typename Tile::T>::bytes(p.K) : 0);
  constexpr auto kernel = decode_tiled_kernel<Tile, normed>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)) !=
      cudaSuccess) {
    cudaGetLastError();  // a GPU whose blocks have less shared memory
    return false;
  }
  cuda::launch<DecodeLinearParams>(kernel, dim3(across, down), kThreads, bytes, stream, p, p.settled);
  return true;
}

template <typename T, int chunks>
bool launch_rows(const DecodeLinearParams& p, cudaStream_t stream) {
  if (p.norm_weight != nullptr) return p.R <= 16 && launch<Tiled<T, chunks, 16, 1, 1>, true>(p, stream);
  if (p.R <= 16) return launch<Tiled<T, chunks, 16, 1, 1>, false>(p, stream);
  if (p.R <= 32) return launch<Tiled<T, chunks, 32, 1, 2>, false>(p, stream);
  return launch<Tiled<T, chunks, 64, 2, 2>, false>(p, stream);
}

}  // namespace

bool launch_decode_tiled(const DecodeLinearParams& p, cudaStream_t stream) {
  bool launched = false;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      if (p.K == 8 * kDecodeChunk) launched = launch_rows<T, 8>(p, stream);
      if (p.K == 16 * kDecodeChunk) launched = launch_rows<T, 16>(p, stream);
    }
  });
  return launched;
}

}  // namespace memformer::ops
