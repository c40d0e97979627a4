// What a number of a decoding step's product is summed of, and in which order: kernels that make the same number by
// other blocks and threads make the same bits. The inner axis is cut into chunks of 32, the chunks into eight shares
// of neighbours. A share's products are added by the tensor cores, chunk by chunk; the shares are added in their order,
// and then the bias.
// Multiplications whose product is added are written as fma: which of them the compiler contracts would else depend on
// what is around them.
// Letters: K numbers of a row, N columns of the result.
#pragma once
#include "core/cuda/mma.cuh"
#include "ops/common/gelu.cuh"
#include "ops/decode_linear/decode_linear.cuh"

namespace memformer::ops {

constexpr int kDecodeChunk = 32;  // four lanes of 16 bytes, which are two products
constexpr int kDecodePad = 8;     // numbers behind a row in shared memory, so that eight rows lie in different banks

/// The first chunk of a share; that of share kDecodeShares is behind the last.
__device__ __forceinline__ int first_chunk(int share, int chunks) { return share * chunks / kDecodeShares; }

/// c += a chunk's products of 16 rows and 8 columns. Lane 4 g + t gives numbers 8 t to 8 t + 7 of rows g and g + 8, and
/// of column g.
template <typename T>
__device__ __forceinline__ void add_chunk(float (&c)[4], const uint4& upper, const uint4& lower, const uint4& column) {
  const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
  cuda::mma<T>(c, first, column.x, column.y);
  cuda::mma<T>(c, second, column.z, column.w);
}

/// The same of M times 16 rows, upper and lower halves, and N times 8 columns. A product waits for the one before it
/// that has the same sums: the others come between the two.
template <typename T, int M, int N>
__device__ __forceinline__ void add_chunk(float (&c)[M][N][4], const uint4 (&rows)[M][2], const uint4 (&columns)[N]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const uint32_t first[4] = {rows[m][0].x, rows[m][1].x, rows[m][0].y, rows[m][1].y};
#pragma unroll
    for (int n = 0; n < N; ++n) cuda::mma<T>(c[m][n], first, columns[n].x, columns[n].y);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const uint32_t second[4] = {rows[m][0].z, rows[m][1].z, rows[m][0].w, rows[m][1].w};
#pragma unroll
    for (int n = 0; n < N; ++n) cuda::mma<T>(c[m][n], second, columns[n].z, columns[n].w);
  }
}

/// A number of y, from its shares' sum with the bias in it.
template <typename T>
__device__ __forceinline__ T finished(const DecodeLinearParams& p, float sum) {
  return cuda::convert<T>(p.gelu ? cuda::gelu<float>(sum) : sum);
}

template <typename T>
__device__ __forceinline__ void store_number(const DecodeLinearParams& p, int64_t row, int64_t column, T number) {
  const int64_t i = row * p.N + column;
  if (p.widened)
    static_cast<float*>(p.y)[i] = cuda::convert<float>(number);
  else
    static_cast<T*>(p.y)[i] = number;
}

/// Four numbers of a row of y, those of column + step j, from their shares' sums: those that there are.
template <typename T>
__device__ __forceinline__ void store_sums(const DecodeLinearParams& p, int64_t row, int64_t column, int step,
                                           const float (&sum)[4]) {
  using namespace cuda;
  T rounded[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t at = column + step * j;
    float x = sum[j];
    if (p.bias != nullptr && at < p.N) x += convert<float>(static_cast<const T*>(p.bias)[at]);
    rounded[j] = finished<T>(p, x);
  }
  if (!p.widened && step == 1 && p.N % 4 == 0) {
    if (column < p.N)
      *reinterpret_cast<uint2*>(static_cast<T*>(p.y) + row * p.N + column) = *reinterpret_cast<const uint2*>(rounded);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (const int64_t at = column + step * j; at < p.N) store_number<T>(p, row, at, rounded[j]);
  }
}

/// Numbers n and n + 1 of a row's shares (kDecodeShares, N), added in their order.
__device__ __forceinline__ void add_shares(const float* shares, int64_t N, int64_t n, float (&sum)[2]) {
  float share[kDecodeShares][2];
#pragma unroll
  for (int i = 0; i < kDecodeShares; ++i) cuda::load(shares + i * N + n, share[i]);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    sum[j] = 0;
#pragma unroll
    for (int i = 0; i < kDecodeShares; ++i) sum[j] += share[i][j];
  }
}

/// What a norm reads of the parameters, where a block has it in shared memory.
template <typename T>
struct SharedNorm {
  float *weight, *bias;  ///< (K)
  T* branch_bias;        ///< (K); null: none

  /// At `memory`, a multiple of 16 bytes, of which it takes bytes(K).
  __device__ __forceinline__ SharedNorm(const DecodeLinearParams& p, void* memory)
      : weight(static_cast<float*>(memory)),
        bias(weight + p.K),
        branch_bias(p.branch_bias == nullptr ? nullptr : reinterpret_cast<T*>(bias + p.K)) {}

  static constexpr size_t bytes(int64_t K) { return (2 * sizeof(float) + sizeof(T)) * K; }

  /// Asks for it, the threads of a block together: it is there behind cuda::arrived() and a barrier.
  __device__ __forceinline__ void ask(const DecodeLinearParams& p) const {
    const int K = static_cast<int>(p.K);
    for (int k = 4 * threadIdx.x; k < K; k += 4 * kDecodeShares * cuda::kWarp) {
      cuda::copy_16_bytes(weight + k, p.norm_weight + k, 16);
      cuda::copy_16_bytes(bias + k, p.norm_bias + k, 16);
      if (branch_bias != nullptr && k % 8 == 0)
        cuda::copy_16_bytes(branch_bias + k, static_cast<const T*>(p.branch_bias) + k, 16);
    }
  }
};

/// Numbers of a row that a lane holds, four neighbours at a time.
constexpr int kRowPacks = kMostNormed / (4 * cuda::kWarp);

/// A lane's part of a row of the stream.
__device__ __forceinline__ void load_stream(const DecodeLinearParams& p, int64_t row, float (&s)[kRowPacks][4]) {
  const int lane = threadIdx.x % cuda::kWarp, K = static_cast<int>(p.K);
  const float* x = static_cast<const float*>(p.x) + row * K;
#pragma unroll
  for (int i = 0; i < kRowPacks; ++i)
    if (const int k = 4 * (i * cuda::kWarp + lane); k < K) cuda::load(x + k, s[i]);
}

/// A warp adds `branch` (K), if it is not null, and the branch's bias to a row of the stream, `s`, and norms it:
/// keep(k, four numbers from k) of every four, by the lane that has read these four of the branch. `writes`: the sum is
/// written too.
template <typename T, typename Keep>
__device__ __forceinline__ void norm_row(const DecodeLinearParams& p, int64_t row, float (&s)[kRowPacks][4],
                                         const T* branch, const SharedNorm<T>& norm, bool writes, Keep&& keep) {
  using namespace cuda;
  const int lane = threadIdx.x % kWarp, K = static_cast<int>(p.K);
  float total = 0;
#pragma unroll
  for (int i = 0; i < kRowPacks; ++i) {
    const int k = 4 * (i * kWarp + lane);
    if (k >= K) continue;
    if (branch != nullptr) {
      float added[4];
      load(branch + k, added);
      if (norm.branch_bias != nullptr) {
        float bias[4];
        load(norm.branch_bias + k, bias);
#pragma unroll
        for (int j = 0; j < 4; ++j) added[j] += bias[j];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) s[i][j] += added[j];
      if (writes) store(s[i], p.sum + row * K + k);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) total += s[i][j];
  }
  const float mean = warp_sum(total) / static_cast<float>(K);
  float square = 0;
#pragma unroll
  for (int i = 0; i < kRowPacks; ++i)
    if (4 * (i * kWarp + lane) < K) {
#pragma unroll
      for (int j = 0; j < 4; ++j) square = fmaf(s[i][j] - mean, s[i][j] - mean, square);
    }
  const float rstd = rsqrtf(warp_sum(square) / static_cast<float>(K) + p.eps);
#pragma unroll
  for (int i = 0; i < kRowPacks; ++i) {
    const int k = 4 * (i * kWarp + lane);
    if (k >= K) continue;
    float weight[4], bias[4];
    load(norm.weight + k, weight);
    load(norm.bias + k, bias);
#pragma unroll
    for (int j = 0; j < 4; ++j) s[i][j] = fmaf((s[i][j] - mean) * rstd, weight[j], bias[j]);
    keep(k, s[i]);
  }
}

/// A block of kDecodeShares warps norms rows from `first_row` of stream and branch into `tile` (rows, K + pad):
/// a warp a row. Shares are added before by all of them, while the stream is on its way. `norm` has been asked for. A
/// barrier has to follow before the tile is read.
template <typename T, int rows, int pad = kDecodePad>
__device__ __forceinline__ void norm_rows(const DecodeLinearParams& p, int64_t first_row, bool writes,
                                          const SharedNorm<T>& norm, T* tile) {
  using namespace cuda;
  constexpr int warps = kDecodeShares;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int K = static_cast<int>(p.K), stride = K + pad;
  float stream[kRowPacks][4] = {};
  if (first_row + warp < p.R) load_stream(p, first_row + warp, stream);
  if (p.shares != nullptr) {
    const int pairs = K / 2, there = static_cast<int>(min(int64_t{rows}, p.R - first_row));
    for (int i = threadIdx.x; i < there * pairs; i += warps * kWarp) {
      const int r = i / pairs, k = i % pairs * 2;
      float sum[2];
      add_shares(p.shares + (first_row + r) * kDecodeShares * K, K, k, sum);
      store(sum, tile + r * stride + k);  // rounded, as the product made at once
    }
  }
  arrived();
  __syncthreads();
  for (int r = warp; r < rows; r += warps) {
    T* to = tile + r * stride;
    const int64_t row = first_row + r;
    if (row < p.R) {
      if (r != warp) load_stream(p, row, stream);
      const T* branch = p.shares != nullptr   ? to
                        : p.branch != nullptr ? static_cast<const T*>(p.branch) + row * K
                                              : nullptr;
      norm_row<T>(p, row, stream, branch, norm, writes,
                  [&](int k, const float (&normed)[4]) { store(normed, to + k); });
    } else {  // a tile's rows beyond the last are zeros
      constexpr float zeros[4] = {};
      for (int k = 4 * lane; k < K; k += 4 * kWarp) store(zeros, to + k);
    }
  }
}

}  // namespace memformer::ops
