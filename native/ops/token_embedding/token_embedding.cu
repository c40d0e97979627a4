#include <climits>

#include "core/cuda/numeric.cuh"
#include "ops/token_embedding/token_embedding.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kRows = 4;     // of a block of the forward kernel, a warp each
constexpr int kSlices = 8;   // of a tile of tokens,
constexpr int kSlice = 128;  // so long each
constexpr int kGroups = 4;   // of threads that share the places of one token

__device__ __forceinline__ int row_of(int64_t token) { return token < 0 ? 0 : static_cast<int>(token); }

/// Rows of `units` copied as they lie.
template <typename unit_t>
__global__ void __launch_bounds__(kRows* kWarp)
    token_embedding_forward_kernel(const int64_t* tokens, const unit_t* weight, unit_t* y, int64_t N, int64_t units) {
  const int64_t n = int64_t{blockIdx.x} * kRows + threadIdx.y;
  if (n >= N) return;
  const unit_t* from = weight + int64_t{row_of(tokens[n])} * units;
#pragma unroll 4
  for (int64_t unit = threadIdx.x; unit < units; unit += kWarp) y[n * units + unit] = from[unit];
}

/// Sorts the places by token, and by place where tokens are equal: place n comes after as many as have a smaller token,
/// or the same one earlier. Column x of a block counts them for one place, its rows y each in a slice of every tile of
/// the tokens.
__global__ void __launch_bounds__(kWarp* kSlices) token_embedding_sort_kernel(const TokenEmbeddingBackwardParams p) {
  __shared__ alignas(16) int tile[kSlices * kSlice];
  __shared__ int counts[kSlices][kWarp];
  const int thread = threadIdx.y * kWarp + threadIdx.x, n = blockIdx.x * kWarp + threadIdx.x, N = static_cast<int>(p.N);
  const int mine = n < N ? row_of(p.tokens[n]) : 0;
  int before = 0;
  for (int start = 0; start < N; start += kSlices * kSlice) {
    __syncthreads();  // the tile before has been read
    for (int i = thread; i < kSlices * kSlice; i += kSlices * kWarp)
      tile[i] = start + i < N ? row_of(p.tokens[start + i]) : INT_MAX;
    __syncthreads();
    const int first = threadIdx.y * kSlice;
#pragma unroll 4
    for (int i = first; i < first + kSlice; i += 4) {
      const int4 four = *reinterpret_cast<const int4*>(tile + i);
      before += four.x < mine || (four.x == mine && start + i < n);
      before += four.y < mine || (four.y == mine && start + i + 1 < n);
      before += four.z < mine || (four.z == mine && start + i + 2 < n);
      before += four.w < mine || (four.w == mine && start + i + 3 < n);
    }
  }
  counts[threadIdx.y][threadIdx.x] = before;
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
  for (int slice = 1; slice < kSlices; ++slice) before += counts[slice][threadIdx.x];
  p.sorted[before] = mine;
  p.places[before] = n;
}

/// Block (s, c): if a token begins at s of the sorted ones, the sum of its gradients for columns c. Row y of the block
/// takes every kGroups-th place, `wide` columns a thread; the rows' sums are joined in order. No two blocks write the
/// same numbers.
template <typename scalar_t, int wide>
__global__ void __launch_bounds__(kWarp* kGroups)
    token_embedding_backward_kernel(const TokenEmbeddingBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int start = blockIdx.x, N = static_cast<int>(p.N), token = p.sorted[start];
  if (start > 0 && p.sorted[start - 1] == token) return;
  const int thread = threadIdx.y * kWarp + threadIdx.x;
  int end = start;
  for (int found = kWarp * kGroups; found == kWarp * kGroups; end += found)
    found = __syncthreads_count(end + thread < N && p.sorted[end + thread] == token);
  const int64_t column = (int64_t{blockIdx.y} * kWarp + threadIdx.x) * wide;
  acc_t sum[wide] = {};
  if (column < p.D) {
#pragma unroll 8
    for (int i = start + threadIdx.y; i < end; i += kGroups) {
      acc_t g[wide];
      load(static_cast<const scalar_t*>(p.grad) + p.places[i] * p.D + column, g);
#pragma unroll
      for (int j = 0; j < wide; ++j) sum[j] += g[j];
    }
  }
  __shared__ acc_t sums[kGroups][kWarp][wide];
#pragma unroll
  for (int j = 0; j < wide; ++j) sums[threadIdx.y][threadIdx.x][j] = sum[j];
  __syncthreads();
  if (threadIdx.y != 0 || column >= p.D) return;
  auto* to = static_cast<acc_t*>(p.sink) + token * p.D + column;
  acc_t held[wide];
  load(to, held);
#pragma unroll
  for (int j = 0; j < wide; ++j) {
    for (int group = 1; group < kGroups; ++group) sum[j] += sums[group][threadIdx.x][j];
    held[j] += sum[j];
  }
  store(held, to);
}

template <typename unit_t>
void copy_rows(const TokenEmbeddingForwardParams& p, int64_t units, cudaStream_t stream) {
  token_embedding_forward_kernel<unit_t><<<ceil_div(p.N, kRows), dim3(kWarp, kRows), 0, stream>>>(
      p.tokens, static_cast<const unit_t*>(p.weight), static_cast<unit_t*>(p.y), p.N, units);
}

}  // namespace

void launch_token_embedding_forward(const TokenEmbeddingForwardParams& p, cudaStream_t stream) {
  if (p.N == 0 || p.D == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    constexpr int wide = 16 / sizeof(scalar_t);
    const auto fits = [&](const void* pointer) { return fits_packs<wide>(static_cast<const scalar_t*>(pointer), p.D); };
    if (fits(p.weight) && fits(p.y))
      copy_rows<uint4>(p, p.D / wide, stream);
    else
      copy_rows<scalar_t>(p, p.D, stream);
  });
}

void launch_token_embedding_backward(const TokenEmbeddingBackwardParams& p, cudaStream_t stream) {
  if (p.N == 0 || p.D == 0) return;
  token_embedding_sort_kernel<<<ceil_div(p.N, kWarp), dim3(kWarp, kSlices), 0, stream>>>(p);
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    constexpr int wide = 4;
    const auto* sink = static_cast<const accumulate_t<scalar_t>*>(p.sink);
    const bool packed = fits_packs<wide>(static_cast<const scalar_t*>(p.grad), p.D) && fits_packs<wide>(sink, p.D);
    const dim3 grid(p.N, ceil_div(p.D, packed ? kWarp * wide : kWarp)), block(kWarp, kGroups);
    if (packed)
      token_embedding_backward_kernel<scalar_t, wide><<<grid, block, 0, stream>>>(p);
    else
      token_embedding_backward_kernel<scalar_t, 1><<<grid, block, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
