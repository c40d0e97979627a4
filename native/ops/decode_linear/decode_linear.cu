// Products of few rows: what counts is how soon the weights are there. A block takes a tile of columns for 16 or 32
// rows; each of its eight warps takes a share of the inner axis, and their sums are added in the order of the warps
// (decode_linear_row.cuh). Which numbers are added in which order depends on K alone: a row's bits are its own,
// whatever rows are beside it and however they are cut into tiles.
#include "ops/decode_linear/decode_linear.cuh"

#include <algorithm>

#include "core/cuda/dependent_launch.cuh"
#include "ops/common/gelu.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWarps = kDecodeShares, kThreads = kWarps * kWarp;
constexpr int kChunk = kDecodeChunk;
constexpr int kPad = kDecodePad;
constexpr int kAhead = 4;  // chunks of weights that a warp has under way

/// A number of y from its shares' sum.
template <typename T>
__device__ __forceinline__ void store_sum(const DecodeLinearParams& p, int64_t row, int64_t column, float sum,
                                          float bias) {
  if (p.bias != nullptr) sum += bias;
  const T rounded = convert<T>(p.gelu ? gelu<float>(sum) : sum);
  const int64_t i = row * p.N + column;
  if (p.widened)
    static_cast<float*>(p.y)[i] = convert<float>(rounded);
  else
    static_cast<T*>(p.y)[i] = rounded;
}

/// Two blocks a multiprocessor leave registers enough where the compiler, which may choose (0), spills some.
template <typename T, int row_tiles, int column_tiles, bool normed>
__global__ void __launch_bounds__(kThreads, column_tiles == 1 && normed ? 2 : 0)
    decode_linear_mma_kernel(const DecodeLinearParams p) {
  constexpr int rows = 16 * row_tiles, columns = 8 * column_tiles;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* sums = reinterpret_cast<float*>(shared);                                        // (kWarps, rows, columns)
  auto* tile = reinterpret_cast<T*>(shared + sizeof(float) * kWarps * rows * columns);  // (rows, K + kPad)
  const SharedNorm<T> norm(p, tile + rows * (p.K + kPad));
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.y} * rows, first_column = int64_t{blockIdx.x} * columns;
  const int K = static_cast<int>(p.K), chunks = K / kChunk;
  const int first = first_chunk(warp, chunks), last = first_chunk(warp + 1, chunks);  // this warp's share
  const auto* weight = static_cast<const T*>(p.weight);
  const auto* x = static_cast<const T*>(p.x);

  const auto weights_of = [&](int chunk, uint4(&w)[column_tiles]) {
#pragma unroll
    for (int n = 0; n < column_tiles; ++n) {
      const int64_t column = first_column + 8 * n + g;
      w[n] = make_uint4(0, 0, 0, 0);
      if (chunk < last && column < p.N)
        w[n] = __ldg(reinterpret_cast<const uint4*>(weight + column * K + chunk * kChunk + 8 * t));
    }
  };
  const auto row_of = [&](int r, int chunk) {
    if constexpr (normed) {
      return *reinterpret_cast<const uint4*>(tile + r * (K + kPad) + chunk * kChunk + 8 * t);
    } else {
      if (first_row + r >= p.R) return make_uint4(0, 0, 0, 0);
      return *reinterpret_cast<const uint4*>(x + (first_row + r) * K + chunk * kChunk + 8 * t);
    }
  };

  uint4 w[kAhead][column_tiles];
#pragma unroll
  for (int a = 0; a < kAhead; ++a) weights_of(first + a, w[a]);
  // What else is read of the parameters, a line of 128 bytes a thread.
  for (int chunk = first + kAhead; chunk < last; ++chunk)
    if (const int64_t column = first_column + lane; lane < columns && column < p.N)
      prefetch(weight + column * K + chunk * kChunk);
  float bias = 0;  // of the column of which this thread adds the shares
  static_assert(kThreads % columns == 0);
  if (const int64_t column = first_column + threadIdx.x % columns; p.bias != nullptr && column < p.N)
    bias = convert<float>(static_cast<const T*>(p.bias)[column]);
  if constexpr (normed) norm.ask(p);
  wait_for_previous();
  let_next_begin();
  if constexpr (normed) {
    norm_rows<T, rows>(p, first_row, blockIdx.x == 0, norm, tile);
    __syncthreads();
  }
  float c[row_tiles][column_tiles][4] = {};
  for (int from = first; from < last; from += kAhead) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int chunk = from + a;
      if (chunk >= last) break;
      uint4 now[column_tiles];
#pragma unroll
      for (int n = 0; n < column_tiles; ++n) now[n] = w[a][n];
      weights_of(chunk + kAhead, w[a]);
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
        const uint4 upper = row_of(16 * m + g, chunk), lower = row_of(16 * m + g + 8, chunk);
#pragma unroll
        for (int n = 0; n < column_tiles; ++n) add_chunk<T>(c[m][n], upper, lower, now[n]);
      }
    }
  }
  float* mine = sums + warp * rows * columns;
#pragma unroll
  for (int m = 0; m < row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < column_tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) mine[(16 * m + g + i / 2 * 8) * columns + 8 * n + 2 * t + i % 2] = c[m][n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < rows * columns; i += kThreads) {
    const int64_t row = first_row + i / columns, column = first_column + i % columns;
    if (row >= p.R || column >= p.N) continue;
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) sum += sums[other * rows * columns + i];
    store_sum<T>(p, row, column, sum, bias);
  }
}

/// Of many columns, a vocabulary's: a warp takes eight columns after eight, each over the whole inner axis, whose
/// weights it has asked for while it multiplied by those before; the shares are added in its registers. A block, two of
/// them on a multiprocessor, norms its rows once.
template <typename T, int row_tiles, int chunks, bool normed>
__global__ void __launch_bounds__(kThreads, 2) decode_wide_kernel(const DecodeLinearParams p) {
  constexpr int rows = 16 * row_tiles, K = chunks * kChunk, stride = K + kPad, of_share = chunks / kDecodeShares;
  static_assert(chunks % kDecodeShares == 0);
  extern __shared__ __align__(16) unsigned char shared[];
  auto* tile = reinterpret_cast<T*>(shared);  // (rows, K + kPad)
  const SharedNorm<T> norm(p, tile + rows * stride);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.y} * rows, step = int64_t{gridDim.x} * kWarps * 8;
  int64_t column = (int64_t{blockIdx.x} * kWarps + warp) * 8;
  const int there = static_cast<int>(min(int64_t{rows}, p.R - first_row));

  const auto weights_of = [&](int64_t from, int chunk) {
    if (from + g >= p.N) return make_uint4(0, 0, 0, 0);
    return __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.weight) + (from + g) * K + chunk * kChunk) + t);
  };
  uint4 w[chunks];
#pragma unroll
  for (int c = 0; c < chunks; ++c) w[c] = weights_of(column, c);
  if constexpr (normed) norm.ask(p);
  wait_for_previous();
  let_next_begin();
  if constexpr (normed) {
    norm_rows<T, rows>(p, first_row, blockIdx.x == 0, norm, tile);
  } else {
    constexpr int packs = K / 8;
    for (int i = threadIdx.x; i < rows * packs; i += kThreads) {
      const int r = i / packs;
      const auto* from = static_cast<const T*>(p.x) + (first_row + min(r, there - 1)) * K + i % packs * 8;
      copy_16_bytes(tile + r * stride + i % packs * 8, from, r < there ? 16 : 0);
    }
    arrived();
  }
  __syncthreads();
  constexpr uint4 none{0, 0, 0, 0};
  for (; column < p.N; column += step) {
    float bias[2] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (const int64_t own = column + 2 * t + j; p.bias != nullptr && own < p.N)
        bias[j] = convert<float>(static_cast<const T*>(p.bias)[own]);
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
      const T* row = tile + (16 * m + g) * stride + 8 * t;
      const bool both = 16 * m + 8 < there;  // the tile's lower half has rows
      float sum[4] = {};
#pragma unroll
      for (int share = 0; share < kDecodeShares; ++share) {
        float c[4] = {};
#pragma unroll
        for (int i = 0; i < of_share; ++i) {
          const int chunk = share * of_share + i;
          const auto upper = *reinterpret_cast<const uint4*>(row + chunk * kChunk);
          const auto lower = both ? *reinterpret_cast<const uint4*>(row + 8 * stride + chunk * kChunk) : none;
          add_chunk<T>(c, upper, lower, w[chunk]);
          if (m == row_tiles - 1) w[chunk] = weights_of(column + step, chunk);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += c[j];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int r = 16 * m + g + j / 2 * 8;
        if (const int64_t own = column + 2 * t + j % 2; r < there && own < p.N)
          store_sum<T>(p, first_row + r, own, sum[j], bias[j % 2]);
      }
    }
  }
}

/// A warp a row: the stream's sum, and its norm to `normed` (R, K).
template <typename T>
__global__ void __launch_bounds__(kThreads) decode_norm_kernel(const DecodeNormParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const auto& rows = p.rows;
  const SharedNorm<T> norm(rows, shared);
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  norm.ask(rows);
  wait_for_previous();
  let_next_begin();
  float stream[kRowPacks][4] = {};
  if (row < rows.R) load_stream(rows, row, stream);
  arrived();
  __syncthreads();
  if (row >= rows.R) return;
  const auto* branch = rows.branch == nullptr ? nullptr : static_cast<const T*>(rows.branch) + row * rows.K;
  norm_row<T>(rows, row, stream, branch, norm, /*writes=*/true,
              [&](int k, const float (&normed)[4]) { store(normed, static_cast<T*>(p.normed) + row * rows.K + k); });
}

/// A warp a number of the result.
template <typename T>
__global__ void __launch_bounds__(kThreads) decode_linear_kernel(const DecodeLinearParams p) {
  using acc_t = accumulate_t<T>;
  wait_for_previous();
  let_next_begin();
  const int64_t column = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp, row = blockIdx.y;
  if (column >= p.N) return;
  const auto* x = static_cast<const T*>(p.x) + row * p.K;
  const auto* w = static_cast<const T*>(p.weight) + column * p.K;
  acc_t sum = 0;
  for (int64_t k = threadIdx.x % kWarp; k < p.K; k += kWarp) sum += convert<acc_t>(x[k]) * convert<acc_t>(w[k]);
  sum = warp_sum(sum);
  if (p.bias != nullptr) sum += convert<acc_t>(static_cast<const T*>(p.bias)[column]);
  if (threadIdx.x % kWarp == 0) static_cast<T*>(p.y)[row * p.N + column] = convert<T>(p.gelu ? gelu<acc_t>(sum) : sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_add_shares_kernel(const DecodeAddSharesParams p) {
  wait_for_previous();
  let_next_begin();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.R * p.N) return;
  const float* shares = p.shares + i / p.N * kDecodeShares * p.N + i % p.N;
  float sum = 0;
#pragma unroll
  for (int share = 0; share < kDecodeShares; ++share) sum += shares[share * p.N];
  static_cast<T*>(p.y)[i] = convert<T>(sum);
}

template <typename T, int row_tiles, int column_tiles, bool normed>
void launch_tiles(const DecodeLinearParams& p, cudaStream_t stream) {
  constexpr int rows = 16 * row_tiles, columns = 8 * column_tiles;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N, columns)), static_cast<unsigned>(ceil_div(p.R, rows)));
  size_t bytes = sizeof(float) * kWarps * rows * columns;
  if (normed) bytes += sizeof(T) * rows * (p.K + kPad) + SharedNorm<T>::bytes(p.K);
  constexpr auto kernel = decode_linear_mma_kernel<T, row_tiles, column_tiles, normed>;
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cuda::launch<DecodeLinearParams>(kernel, grid, kThreads, bytes, stream, p, p.settled);
}

/// Columns from which on a product is wide: as many as there are warps in two blocks of every multiprocessor, or more.
constexpr int64_t kWide = 8192;

template <typename T, int row_tiles, int chunks, bool normed>
void launch_wide(const DecodeLinearParams& p, cudaStream_t stream) {
  constexpr int rows = 16 * row_tiles, K = chunks * kChunk;
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  const auto down = static_cast<unsigned>(ceil_div(p.R, rows)),
             resident = std::max(1u, 2 * static_cast<unsigned>(multiprocessors) / down),
             across = std::min(resident, static_cast<unsigned>(ceil_div(p.N, 8 * kWarps)));
  const size_t bytes = sizeof(T) * rows * (K + kPad) + (normed ? SharedNorm<T>::bytes(K) : 0);
  constexpr auto kernel = decode_wide_kernel<T, row_tiles, chunks, normed>;
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cuda::launch<DecodeLinearParams>(kernel, dim3(across, down), kThreads, bytes, stream, p, p.settled);
}

template <typename T, int chunks>
void launch_wide(const DecodeLinearParams& p, cudaStream_t stream) {
  if (p.norm_weight != nullptr)
    launch_wide<T, 1, chunks, true>(p, stream);
  else
    p.R <= 16 ? launch_wide<T, 1, chunks, false>(p, stream) : launch_wide<T, 4, chunks, false>(p, stream);
}

/// Few rows want many blocks, many rows few reads of the weights.
template <typename T>
void launch_tiles(const DecodeLinearParams& p, cudaStream_t stream) {
  if (p.N >= kWide && p.K == 8 * kChunk) return launch_wide<T, 8>(p, stream);
  if (p.N >= kWide && p.K == 16 * kChunk) return launch_wide<T, 16>(p, stream);
  const bool narrow = p.R <= 16 && p.N <= 1024;
  if (p.norm_weight != nullptr)
    narrow ? launch_tiles<T, 1, 1, true>(p, stream) : launch_tiles<T, 1, 2, true>(p, stream);
  else if (p.R > 16)
    launch_tiles<T, 2, 2, false>(p, stream);
  else
    narrow ? launch_tiles<T, 1, 1, false>(p, stream) : launch_tiles<T, 1, 2, false>(p, stream);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

bool fits_tensor_cores(const DecodeLinearParams& p) {
  const bool narrow = p.dtype == Dtype::bf16 || p.dtype == Dtype::f16;
  const bool normed = p.norm_weight != nullptr;
  return narrow && p.K > 0 && p.K % kChunk == 0 && (!normed || p.K <= kMostNormed) && aligned(p.x) &&
         aligned(p.branch) && aligned(p.shares) && aligned(p.branch_bias) && aligned(p.weight) &&
         aligned(p.norm_weight) && aligned(p.norm_bias) && aligned(p.sum);
}

void launch_decode_linear_on_tensor_cores(const DecodeLinearParams& p, cudaStream_t stream) {
  if (p.R == 0 || p.N == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) launch_tiles<T>(p, stream);
  });
}

void launch_decode_norm(const DecodeNormParams& p, cudaStream_t stream) {
  const auto& rows = p.rows;
  if (rows.R == 0) return;
  for_dtype(rows.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2)
      cuda::launch<DecodeNormParams>(decode_norm_kernel<T>, static_cast<unsigned>(ceil_div(rows.R, kWarps)), kThreads,
                                     SharedNorm<T>::bytes(rows.K), stream, p, rows.settled);
  });
}

void launch_decode_linear(const DecodeLinearParams& p, cudaStream_t stream) {
  if (p.R == 0 || p.N == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N, kWarps)), static_cast<unsigned>(p.R));
  for_dtype(p.dtype, [&](auto type) {
    cuda::launch<DecodeLinearParams>(decode_linear_kernel<typename decltype(type)::type>, grid, kThreads, 0, stream, p,
                                     p.settled);
  });
}

void launch_decode_add_shares(const DecodeAddSharesParams& p, cudaStream_t stream) {
  if (p.R == 0 || p.N == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(p.R * p.N, kThreads));
  for_dtype(p.dtype, [&](auto type) {
    cuda::launch<DecodeAddSharesParams>(decode_add_shares_kernel<typename decltype(type)::type>, blocks, kThreads, 0,
                                        stream, p, /*early=*/true);
  });
}

}  // namespace memformer::ops
