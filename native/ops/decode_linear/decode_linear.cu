// Products of few rows: what counts is how soon the weights are there. A block takes a tile of columns for 16 or 32
// rows; each of its eight warps takes a share of the inner axis, and their sums are added in the order of the warps
// (decode_linear_row.cuh). Which numbers are added in which order depends on K alone: a row's bits are its own,
// whatever rows are beside it and however they are cut into tiles.
#include "ops/decode_linear/decode_linear.cuh"

#include "core/cuda/dependent_launch.cuh"
#include "ops/common/gelu.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"
#include "ops/decode_linear/decode_linear_tiled.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWarps = kDecodeShares, kThreads = kWarps * kWarp;
constexpr int kChunk = kDecodeChunk;
constexpr int kPad = kDecodePad;

/// Two blocks a multiprocessor leave registers enough where the compiler, which may choose (0), spills some.
/// `kAhead`: chunks of weights that a warp has under way.
template <typename T, int row_tiles, int column_tiles, bool normed, int kAhead>
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
      uint4 of_rows[row_tiles][2];
#pragma unroll
      for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) of_rows[m][half] = row_of(16 * m + 8 * half + g, chunk);
      add_chunk<T>(c, of_rows, now);
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
    if (p.bias != nullptr) sum += bias;
    store_number<T>(p, row, column, finished<T>(p, sum));
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

template <typename T, int row_tiles, int column_tiles, bool normed, int ahead = 4>
void launch_tiles(const DecodeLinearParams& p, cudaStream_t stream) {
  constexpr int rows = 16 * row_tiles, columns = 8 * column_tiles;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N, columns)), static_cast<unsigned>(ceil_div(p.R, rows)));
  size_t bytes = sizeof(float) * kWarps * rows * columns;
  if (normed) bytes += sizeof(T) * rows * (p.K + kPad) + SharedNorm<T>::bytes(p.K);
  constexpr auto kernel = decode_linear_mma_kernel<T, row_tiles, column_tiles, normed, ahead>;
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cuda::launch<DecodeLinearParams>(kernel, grid, kThreads, bytes, stream, p, p.settled);
}

/// Columns from which on a product is one of many, a vocabulary's, whatever the rows; rows from which on it is one of
/// many unless its columns are few.
constexpr int64_t kManyColumns = 8192, kManyRows = 129, kNotFewColumns = 1024;
/// Rows up to which smaller tiles, and so more blocks, are worth reading the weights more often.
constexpr int64_t kSomeRows = 64;

/// Few rows want many blocks, many rows few reads of the weights.
template <typename T>
void launch_tiles(const DecodeLinearParams& p, cudaStream_t stream) {
  const bool many = p.N >= kManyColumns || (p.R >= kManyRows && p.N >= kNotFewColumns);
  if (many && launch_decode_tiled(p, stream)) return;
  const bool narrow = p.R <= 16 && p.N <= 1024;
  if (p.norm_weight != nullptr)
    narrow ? launch_tiles<T, 1, 1, true>(p, stream) : launch_tiles<T, 1, 2, true>(p, stream);
  else if (p.R > 16 && p.R <= kSomeRows && p.K >= 64 * kChunk)
    launch_tiles<T, 1, 2, false, 8>(p, stream);  // the inner axis takes the time
  else if (p.R > 16 && p.R <= kSomeRows && p.K <= 16 * kChunk && p.N <= 1536)
    launch_tiles<T, 1, 2, false, 2>(p, stream);  // that is all of a warp's share: registers for more blocks
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
