#include <algorithm>

#include "core/cuda/column_sums.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/common/gelu.cuh"
#include "ops/gelu_dropout/gelu_dropout.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int64_t kMostThreads = 132 * 2048;  // what an H100 holds at once: more take turns

template <typename scalar_t>
constexpr int kWide = sizeof(scalar_t) == 2 ? 8 : 4;

/// A thread takes `wide` neighbours, a multiple of the four of a Philox counter, or one number, of every row of a
/// share.
template <typename scalar_t, int wide, bool backward>
__global__ void __launch_bounds__(kThreads) gelu_dropout_kernel(const GeluDropoutParams p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int group = wide < 4 ? 1 : 4;
  const int64_t column = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * wide;
  const int64_t share = int64_t{blockIdx.y} * blockDim.y + threadIdx.y;
  if (column >= p.C || share >= p.shares) return;
  wait_for_previous();
  acc_t bias[wide] = {}, sum[wide] = {};
  if (p.bias != nullptr) load(static_cast<const scalar_t*>(p.bias) + column, bias);
  DropoutShare seeds;
  // The next row is on its way while this one is worked on.
  Pack<scalar_t, wide> next_x, next_grad;
  const auto fetch = [&](int64_t n) {
    next_x = *reinterpret_cast<const Pack<scalar_t, wide>*>(static_cast<const scalar_t*>(p.x) + n * p.C + column);
    if constexpr (backward)
      next_grad =
          *reinterpret_cast<const Pack<scalar_t, wide>*>(static_cast<const scalar_t*>(p.grad) + n * p.C + column);
  };
  fetch(share);
  for (int64_t n = share; n < p.N; n += p.shares) {
    const int64_t first = n * p.C + column;
    acc_t x[wide], y[wide];
    load(next_x.value, x);
    if constexpr (backward) load(next_grad.value, y);
    if (n + p.shares < p.N) fetch(n + p.shares);
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      x[i] += bias[i];
      if constexpr (backward)
        y[i] *= gelu_derivative<scalar_t>(x[i]);
      else
        y[i] = gelu<scalar_t>(x[i]);
    }
    if (p.mask.seed != nullptr) {
#pragma unroll
      for (int i = 0; i < wide; i += group) {
        auto& few = reinterpret_cast<acc_t(&)[group]>(y[i]);
        drop(p.mask, seeds, first + i, few);
      }
    }
    store(y, static_cast<scalar_t*>(p.out) + first);
    if constexpr (backward) {
#pragma unroll
      for (int i = 0; i < wide; ++i) sum[i] += y[i];
    }
  }
  if constexpr (backward) {
    if (p.partials != nullptr) store(sum, static_cast<acc_t*>(p.partials) + share * p.C + column);
  }
}

template <typename scalar_t, int wide, bool backward>
void launch(const GeluDropoutParams& p, cudaStream_t stream) {
  const int64_t packs = ceil_div(p.C, wide);
  const int across = static_cast<int>(std::min<int64_t>(kThreads, ceil_div(packs, kWarp) * kWarp)),
            down = kThreads / across;
  const dim3 block(across, down), grid(ceil_div(packs, across), ceil_div(p.shares, down));
  cuda::launch<GeluDropoutParams>(gelu_dropout_kernel<scalar_t, wide, backward>, grid, block, 0, stream, p,
                                  /*early=*/true);
}

template <bool backward>
void launch(const GeluDropoutParams& p, cudaStream_t stream) {
  if (p.N * p.C == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    constexpr int wide = kWide<scalar_t>;
    const auto fits = [&](const void* pointer) { return fits_packs<wide>(static_cast<const scalar_t*>(pointer), p.C); };
    const bool packed = p.mask.in_fours() && fits(p.x) && fits(p.bias) && fits(p.grad) && fits(p.out);
    if (packed)
      launch<scalar_t, wide, backward>(p, stream);
    else
      launch<scalar_t, 1, backward>(p, stream);
  });
}

}  // namespace

int64_t gelu_dropout_shares(int64_t N, int64_t C, bool summed, Dtype dtype) {
  int64_t threads = 1;  // of a row
  for_dtype(dtype,
            [&](auto type) { threads = ceil_div(ceil_div(C, kWide<typename decltype(type)::type>), kWarp) * kWarp; });
  // Twice as many as row_shares: what a row costs is arithmetic too, and needs more threads to hide.
  if (summed) return std::min<int64_t>(N, 2 * row_shares(N, threads));
  return std::min(N, ceil_div(kMostThreads, threads));
}

void launch_gelu_dropout_forward(const GeluDropoutParams& params, cudaStream_t stream) {
  launch<false>(params, stream);
}

void launch_gelu_dropout_backward(const GeluDropoutParams& params, cudaStream_t stream) {
  launch<true>(params, stream);
}

}  // namespace memformer::ops
