#include "ops/add_norm/add_norm.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/add_norm/add_norm_dispatch.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

template <int threads, typename acc_t>
__device__ __forceinline__ acc_t row_sum(acc_t value) {
  if constexpr (threads == kWarp)
    return warp_sum(value);
  else
    return block_sum<threads>(value);
}

/// A row is taken by `threads` along x: a warp, or where there are few rows the whole block, for which packs are fewer.
template <typename scalar_t, typename branch_t, typename out_t, int packs, int threads>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp) add_norm_forward_kernel(const AddNormForwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* x = static_cast<const scalar_t*>(p.x) + row * D;
  const auto* branch = static_cast<const branch_t*>(p.branch);
  const int64_t first = kPack * threadIdx.x;
  constexpr int64_t stride = kPack * threads;
  wait_for_previous();
  acc_t s[packs][kPack] = {}, added[packs][kPack] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k)
    if (const int64_t d = k * stride + first; d < D) load(x + d, s[k]);
  // The weights are on their way while the sums are taken, where registers allow.
  constexpr bool early = packs * sizeof(acc_t) <= 8;
  const auto* weight = static_cast<const scalar_t*>(p.weight);
  const auto* bias = static_cast<const scalar_t*>(p.bias);
  acc_t w[packs][kPack], b[packs][kPack];
  const auto load_weights = [&](int k) {
    load(weight + k * stride + first, w[k]);
    load(bias + k * stride + first, b[k]);
  };
  if constexpr (early) {
#pragma unroll
    for (int k = 0; k < packs; ++k)
      if (k * stride + first < D) load_weights(k);
  }
  acc_t total = 0;
  if (branch != nullptr) {
#pragma unroll
    for (int k = 0; k < packs; ++k)
      if (const int64_t d = k * stride + first; d < D) load(branch + row * D + d, added[k]);
    const bool drops = p.mask.seed != nullptr;
    DropoutShare share;
    if (drops) share.enter(p.mask, row * D);
    auto* sum = static_cast<scalar_t*>(p.sum) + row * D;
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int64_t d = k * stride + first;
      if (d >= D) continue;
      if (p.branch_bias != nullptr) {
        acc_t b[kPack];
        load(static_cast<const branch_t*>(p.branch_bias) + d, b);
#pragma unroll
        for (int i = 0; i < kPack; ++i) added[k][i] += b[i];
      }
      if (drops) drop(p.mask, share, row * D + d, added[k]);
#pragma unroll
      for (int i = 0; i < kPack; ++i) s[k][i] = convert<acc_t>(convert<scalar_t>(s[k][i] + added[k][i]));
      store(s[k], sum + d);
    }
  }
#pragma unroll
  for (int k = 0; k < packs; ++k)
#pragma unroll
    for (int i = 0; i < kPack; ++i) total += s[k][i];  // what lies beyond D is 0
  const acc_t mean = row_sum<threads>(total) / static_cast<acc_t>(D);
  acc_t square = 0;
#pragma unroll
  for (int k = 0; k < packs; ++k)
    if (k * stride + first < D) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) square += (s[k][i] - mean) * (s[k][i] - mean);
    }
  const acc_t rstd = rsqrt(row_sum<threads>(square) / static_cast<acc_t>(D) + static_cast<acc_t>(p.eps));
  auto* normed = static_cast<out_t*>(p.normed) + row * D;
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const int64_t d = k * stride + first;
    if (d >= D) continue;
    if constexpr (!early) load_weights(k);
#pragma unroll
    for (int i = 0; i < kPack; ++i) s[k][i] = (s[k][i] - mean) * rstd * w[k][i] + b[k][i];
    store(s[k], normed + d);
  }
  if (threadIdx.x == 0) {
    static_cast<acc_t*>(p.mean)[row] = mean;
    static_cast<acc_t*>(p.rstd)[row] = rstd;
  }
}

template <typename scalar_t, typename branch_t, typename out_t>
__global__ void add_norm_forward_of_any_width_kernel(const AddNormForwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* x = static_cast<const scalar_t*>(p.x) + row * D;
  const auto* branch = static_cast<const branch_t*>(p.branch);
  auto* sum = static_cast<scalar_t*>(p.sum) + row * D;
  DropoutShare share;
  const auto at = [&](int64_t d) { return convert<acc_t>(branch != nullptr ? sum[d] : x[d]); };
  acc_t total = 0;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) {
    if (branch != nullptr) {
      acc_t added[1] = {convert<acc_t>(branch[row * D + d])};
      if (p.branch_bias != nullptr) added[0] += convert<acc_t>(static_cast<const branch_t*>(p.branch_bias)[d]);
      if (p.mask.seed != nullptr) drop(p.mask, share, row * D + d, added);
      sum[d] = convert<scalar_t>(convert<acc_t>(x[d]) + added[0]);
    }
    total += at(d);
  }
  const acc_t mean = warp_sum(total) / static_cast<acc_t>(D);
  acc_t square = 0;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) square += (at(d) - mean) * (at(d) - mean);
  const acc_t rstd = rsqrt(warp_sum(square) / static_cast<acc_t>(D) + static_cast<acc_t>(p.eps));
  const auto* weight = static_cast<const scalar_t*>(p.weight);
  const auto* bias = static_cast<const scalar_t*>(p.bias);
  auto* normed = static_cast<out_t*>(p.normed) + row * D;
  for (int64_t d = threadIdx.x; d < D; d += kWarp)
    normed[d] = convert<out_t>((at(d) - mean) * rstd * convert<acc_t>(weight[d]) + convert<acc_t>(bias[d]));
  if (threadIdx.x == 0) {
    static_cast<acc_t*>(p.mean)[row] = mean;
    static_cast<acc_t*>(p.rstd)[row] = rstd;
  }
}

}  // namespace

void launch_add_norm_forward(const AddNormForwardParams& p, cudaStream_t stream) {
  if (p.N == 0) return;
  const dim3 block(kWarp, p.N <= 4 * kMultiprocessors ? 1 : kRowsPerBlock), grid(ceil_div(p.N, block.y));
  for_dtypes(p.x_dtype, p.branch_dtype, p.dtype, [&](auto x_type, auto branch_type, auto out_type) {
    using scalar_t = typename decltype(x_type)::type;
    using branch_t = typename decltype(branch_type)::type;
    using out_t = typename decltype(out_type)::type;
    const auto fits = [&](auto* pointer) { return fits_packs<kPack>(pointer, p.D); };
    const int packs = packs_of(p.D, p.x_dtype);
    const bool packed = packs > 0 && p.mask.in_fours() && fits(static_cast<const scalar_t*>(p.x)) &&
                        fits(static_cast<const branch_t*>(p.branch)) &&
                        fits(static_cast<const branch_t*>(p.branch_bias)) &&
                        fits(static_cast<const scalar_t*>(p.weight)) && fits(static_cast<const scalar_t*>(p.bias)) &&
                        fits(static_cast<const scalar_t*>(p.sum)) && fits(static_cast<const out_t*>(p.normed));
    if (!packed) {
      add_norm_forward_of_any_width_kernel<scalar_t, branch_t, out_t><<<grid, block, 0, stream>>>(p);
      return;
    }
    for_packs(packs, [&](auto constant) {
      constexpr int packs = decltype(constant)::value, warps = kRowsPerBlock, fewer = (packs + warps - 1) / warps;
      if constexpr (kCompiled<accumulate_t<scalar_t>, packs>) {
        if (packs < warps || p.N > 4 * kMultiprocessors)
          cuda::launch<AddNormForwardParams>(add_norm_forward_kernel<scalar_t, branch_t, out_t, packs, kWarp>, grid,
                                             block, 0, stream, p, /*early=*/true);
        else
          cuda::launch<AddNormForwardParams>(add_norm_forward_kernel<scalar_t, branch_t, out_t, fewer, warps * kWarp>,
                                             static_cast<unsigned>(p.N), warps * kWarp, 0, stream, p, /*early=*/true);
      }
    });
  });
}

}  // namespace memformer::ops
