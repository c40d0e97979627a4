#include <algorithm>

#include "core/cuda/column_sums.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/add_norm/add_norm.cuh"
#include "ops/add_norm/add_norm_dispatch.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kMostThreads = 512;  // a row: registers must fit
constexpr int64_t kMostWidth = kMostThreads * kPack;

/// A block takes every gridDim.x-th group of `rows` rows, a thread the same four columns of them all: what it sums over
/// the rows it holds alone, and the sums along the group's rows meet at one barrier.
template <typename scalar_t, typename branch_t, typename out_t, int rows>
__global__ void __launch_bounds__(kMostThreads) add_norm_backward_kernel(const AddNormBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int sums = 2 * rows;
  __shared__ alignas(16)
      acc_t of_warps[2][kMostThreads / kWarp][sums];  // by turns, so that one barrier a group is enough
  const int64_t D = p.D, d = kPack * threadIdx.x;
  const bool within = d < D, drops = p.mask.seed != nullptr;
  acc_t weight[kPack] = {}, grad_weight[kPack] = {}, grad_bias[kPack] = {}, grad_branch_bias[kPack] = {};
  if (within) load(static_cast<const scalar_t*>(p.weight) + d, weight);
  DropoutShare share;
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * rows; first < p.N; first += int64_t{gridDim.x} * rows, turn ^= 1) {
    acc_t z[rows][kPack] = {}, g[rows][kPack] = {}, direct[rows][kPack] = {}, mean[rows] = {}, rstd[rows] = {},
          sum[sums] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r, i = row * D + d;
      if (row >= p.N || !within) continue;
      load(static_cast<const scalar_t*>(p.sum) + i, z[r]);
      if (p.grad_normed != nullptr) load(static_cast<const out_t*>(p.grad_normed) + i, g[r]);
      if (p.grad_sum != nullptr) load(static_cast<const scalar_t*>(p.grad_sum) + i, direct[r]);
      mean[r] = static_cast<const acc_t*>(p.mean)[row];
      rstd[r] = static_cast<const acc_t*>(p.rstd)[row];
    }
    if (drops && within) share.enter(p.mask, first * D + d);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        z[r][i] = (z[r][i] - mean[r]) * rstd[r];
        grad_weight[i] += g[r][i] * z[r][i];
        grad_bias[i] += g[r][i];
        g[r][i] *= weight[i];
        sum[2 * r] += g[r][i];
        sum[2 * r + 1] += g[r][i] * z[r][i];
      }
    }
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const acc_t of_warp = warp_sums(sum);
    if (lane % (kWarp / sums) == 0) of_warps[turn][warp][lane / (kWarp / sums)] = of_warp;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sums; ++i) sum[i] = 0;
    for (int w = 0; w < blockDim.x / kWarp; ++w) {
      acc_t few[sums];
      load(of_warps[turn][w], few);
#pragma unroll
      for (int i = 0; i < sums; ++i) sum[i] += few[i];
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r, index = row * D + d;
      if (row >= p.N || !within) continue;
      const acc_t mean_g = sum[2 * r] / static_cast<acc_t>(D), mean_gz = sum[2 * r + 1] / static_cast<acc_t>(D);
#pragma unroll
      for (int i = 0; i < kPack; ++i) g[r][i] = direct[r][i] + rstd[r] * (g[r][i] - mean_g - z[r][i] * mean_gz);
      store(g[r], static_cast<scalar_t*>(p.grad_x) + index);
      if (p.grad_branch == nullptr) continue;
      if (drops) drop(p.mask, share, index, g[r]);
      store(g[r], static_cast<branch_t*>(p.grad_branch) + index);
#pragma unroll
      for (int i = 0; i < kPack; ++i) grad_branch_bias[i] += g[r][i];
    }
  }
  if (!within) return;
  auto* partial = static_cast<acc_t*>(p.partials) + blockIdx.x * (p.sums_branch ? 3 : 2) * D + d;
  store(grad_weight, partial);
  store(grad_bias, partial + D);
  if (p.sums_branch) store(grad_branch_bias, partial + 2 * D);
}

template <typename scalar_t, typename branch_t, typename out_t>
__global__ void add_norm_backward_of_any_width_kernel(const AddNormBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const acc_t mean = static_cast<const acc_t*>(p.mean)[row], rstd = static_cast<const acc_t*>(p.rstd)[row];
  const auto z = [&](int64_t d) {
    return (convert<acc_t>(static_cast<const scalar_t*>(p.sum)[row * D + d]) - mean) * rstd;
  };
  const auto g = [&](int64_t d) {
    if (p.grad_normed == nullptr) return acc_t(0);
    const acc_t w = convert<acc_t>(static_cast<const scalar_t*>(p.weight)[d]);
    return convert<acc_t>(static_cast<const out_t*>(p.grad_normed)[row * D + d]) * w;
  };
  acc_t sum_g = 0, sum_gz = 0;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) {
    sum_g += g(d);
    sum_gz += g(d) * z(d);
  }
  const acc_t mean_g = warp_sum(sum_g) / static_cast<acc_t>(D), mean_gz = warp_sum(sum_gz) / static_cast<acc_t>(D);
  DropoutShare share;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) {
    acc_t grad[1] = {rstd * (g(d) - mean_g - z(d) * mean_gz)};
    if (p.grad_sum != nullptr) grad[0] += convert<acc_t>(static_cast<const scalar_t*>(p.grad_sum)[row * D + d]);
    static_cast<scalar_t*>(p.grad_x)[row * D + d] = convert<scalar_t>(grad[0]);
    if (p.grad_branch == nullptr) continue;
    if (p.mask.seed != nullptr) drop(p.mask, share, row * D + d, grad);
    static_cast<branch_t*>(p.grad_branch)[row * D + d] = convert<branch_t>(grad[0]);
  }
}

/// Block (x, y): every gridDim.y-th row from y, a column a thread.
template <typename scalar_t, typename branch_t, typename out_t>
__global__ void add_norm_partials_kernel(const AddNormBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t d = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, D = p.D;
  if (d >= D) return;
  acc_t grad_weight = 0, grad_bias = 0, grad_branch_bias = 0;
  for (int64_t row = blockIdx.y; row < p.N; row += gridDim.y) {
    if (p.sums_branch) grad_branch_bias += convert<acc_t>(static_cast<const branch_t*>(p.grad_branch)[row * D + d]);
    if (p.grad_normed == nullptr) continue;
    const acc_t g = convert<acc_t>(static_cast<const out_t*>(p.grad_normed)[row * D + d]);
    const acc_t s = convert<acc_t>(static_cast<const scalar_t*>(p.sum)[row * D + d]);
    grad_weight += g * (s - static_cast<const acc_t*>(p.mean)[row]) * static_cast<const acc_t*>(p.rstd)[row];
    grad_bias += g;
  }
  auto* partial = static_cast<acc_t*>(p.partials) + blockIdx.y * (p.sums_branch ? 3 : 2) * D + d;
  partial[0] = grad_weight;
  partial[D] = grad_bias;
  if (p.sums_branch) partial[2 * D] = grad_branch_bias;
}

int64_t threads_of(int64_t D) { return ceil_div(std::min(D, kMostWidth), kWarpPack) * kWarp; }

/// Rows of a group: as many as a share has, while registers hold them.
int rows_of(int64_t N, int64_t D, Dtype dtype) {
  const int64_t each = ceil_div(N, row_shares(N, threads_of(D))), most = dtype == Dtype::f64 ? 2 : 4;
  return static_cast<int>(std::min(each >= 3 ? 4 : each, most));
}

template <typename Body>
void for_rows(int rows, Body&& body) {
  switch (rows) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    default:
      return body(std::integral_constant<int, 4>());
  }
}

}  // namespace

int64_t add_norm_shares(int64_t N, int64_t D, Dtype x_dtype) {
  return std::min(row_shares(N, threads_of(D)), ceil_div(N, rows_of(N, D, x_dtype)));
}

void launch_add_norm_backward(const AddNormBackwardParams& p, cudaStream_t stream) {
  if (p.N == 0) return;
  const int64_t shares = add_norm_shares(p.N, p.D, p.x_dtype);
  for_dtypes(p.x_dtype, p.branch_dtype, p.dtype, [&](auto x_type, auto branch_type, auto out_type) {
    using scalar_t = typename decltype(x_type)::type;
    using branch_t = typename decltype(branch_type)::type;
    using out_t = typename decltype(out_type)::type;
    const auto fits = [&](auto* pointer) { return fits_packs<kPack>(pointer, p.D); };
    const bool packed = p.D <= kMostWidth && p.mask.in_fours() && fits(static_cast<const scalar_t*>(p.sum)) &&
                        fits(static_cast<const scalar_t*>(p.grad_sum)) &&
                        fits(static_cast<const out_t*>(p.grad_normed)) &&
                        fits(static_cast<const scalar_t*>(p.weight)) && fits(static_cast<const scalar_t*>(p.grad_x)) &&
                        fits(static_cast<const branch_t*>(p.grad_branch));
    if (packed) {
      for_rows(rows_of(p.N, p.D, p.x_dtype), [&](auto constant) {
        constexpr int rows = decltype(constant)::value;
        if constexpr (rows * sizeof(accumulate_t<scalar_t>) <= 16)
          add_norm_backward_kernel<scalar_t, branch_t, out_t, rows><<<shares, threads_of(p.D), 0, stream>>>(p);
      });
    } else {
      const dim3 block(kWarp, kRowsPerBlock);
      add_norm_backward_of_any_width_kernel<scalar_t, branch_t, out_t><<<ceil_div(p.N, block.y), block, 0, stream>>>(p);
      const dim3 grid(ceil_div(p.D, kWarpPack), shares);
      add_norm_partials_kernel<scalar_t, branch_t, out_t><<<grid, kWarpPack, 0, stream>>>(p);
    }
  });
}

}  // namespace memformer::ops
