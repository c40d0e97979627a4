#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/linear/linear.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

// A block takes 8 packs of 16 bytes side by side (64 columns of bfloat16) of the rows of its share, 32 rows at a time.
constexpr int kAcross = 8, kDown = 32, kThreads = kAcross * kDown, kWarps = kThreads / kWarp;
constexpr int64_t kLeastRows = 128;  // of a share
constexpr int64_t kBlocks = 264;     // two a multiprocessor of an H100

template <typename scalar_t, int wide>
__global__ void __launch_bounds__(kThreads) column_sum_kernel(const BiasGradientParams p) {
  using acc_t = accumulate_t<scalar_t>;
  __shared__ acc_t of_warp[kWarps][kAcross * wide];
  const int across = threadIdx.x % kAcross, warp = threadIdx.x / kWarp;
  const int64_t first_column = int64_t{blockIdx.x} * kAcross * wide, column = first_column + across * wide;
  const int64_t share = (p.N + p.splits - 1) / p.splits, begin = blockIdx.y * share, end = min(begin + share, p.N);
  acc_t sum[wide] = {};
  if (column < p.C) {
    const auto* grad = static_cast<const scalar_t*>(p.grad) + column;
#pragma unroll 4
    for (int64_t n = begin + threadIdx.x / kAcross; n < end; n += kDown) {
      acc_t g[wide];
      load(grad + n * p.stride, g);
#pragma unroll
      for (int i = 0; i < wide; ++i) sum[i] += g[i];
    }
  }
#pragma unroll
  for (int i = 0; i < wide; ++i) {
#pragma unroll
    for (int offset = kAcross; offset < kWarp; offset *= 2) sum[i] += __shfl_xor_sync(kAllLanes, sum[i], offset);
    if (threadIdx.x % kWarp < kAcross) of_warp[warp][across * wide + i] = sum[i];
  }
  __syncthreads();
  const int64_t mine = first_column + threadIdx.x;
  if (threadIdx.x >= kAcross * wide || mine >= p.C) return;
  acc_t total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += of_warp[w][threadIdx.x];
  if (p.splits == 1)
    static_cast<acc_t*>(p.sink)[mine] += total;
  else
    static_cast<acc_t*>(p.partials)[blockIdx.y * p.C + mine] = total;
}

template <typename acc_t>
__global__ void __launch_bounds__(kThreads) add_partials_kernel(const BiasGradientParams p) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= p.C) return;
  const auto* partials = static_cast<const acc_t*>(p.partials) + column;
  acc_t total = 0;
#pragma unroll 8
  for (int64_t split = 0; split < p.splits; ++split) total += partials[split * p.C];
  static_cast<acc_t*>(p.sink)[column] += total;
}

int pack_of(Dtype dtype) { return dtype == Dtype::f64 ? 2 : dtype == Dtype::f32 ? 4 : 8; }

}  // namespace

int64_t bias_gradient_splits(int64_t N, int64_t C, Dtype dtype) {
  const int64_t tiles = ceil_div(C, kAcross * pack_of(dtype));
  return std::max<int64_t>(1, std::min(N / kLeastRows, kBlocks / std::max<int64_t>(tiles, 1)));
}

void launch_bias_gradient(const BiasGradientParams& p, cudaStream_t stream) {
  if (p.N == 0 || p.C == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using acc_t = accumulate_t<scalar_t>;
    constexpr int wide = 16 / sizeof(scalar_t);
    const auto* grad = static_cast<const scalar_t*>(p.grad);
    const bool packed = fits_packs<wide>(grad, p.C) && p.stride % wide == 0;
    const dim3 grid(ceil_div(p.C, kAcross * (packed ? wide : 1)), p.splits);
    if (packed)
      column_sum_kernel<scalar_t, wide><<<grid, kThreads, 0, stream>>>(p);
    else
      column_sum_kernel<scalar_t, 1><<<grid, kThreads, 0, stream>>>(p);
    if (p.splits > 1) add_partials_kernel<acc_t><<<ceil_div(p.C, kThreads), kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
