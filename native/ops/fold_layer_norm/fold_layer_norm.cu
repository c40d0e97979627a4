#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/fold_layer_norm/fold_layer_norm.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kRows = 8;  // of a block: a warp each
constexpr int64_t kRowsOfShare = 32;

/// An array's element by a number known at run time, without moving the array to memory.
template <typename T>
__device__ __forceinline__ T pick(T const (&from)[kFoldedLayers], int i) {
  T found = from[0];
#pragma unroll
  for (int l = 1; l < kFoldedLayers; ++l)
    if (l == i) found = from[l];
  return found;
}

/// A warp takes a row of a layer, blockIdx.y.
template <typename acc_t, typename out_t>
__global__ void __launch_bounds__(kRows* kWarp) fold_layer_norm_forward_kernel(const FoldLayerNormForwardParams q) {
  const FoldLayerNormParams& p = q.of;
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.y, D = p.D;
  const int l = blockIdx.y;
  if (row >= p.R) return;
  const auto* weight = static_cast<const acc_t*>(pick(p.weights, l)) + row * D;
  const auto* norm_weight = static_cast<const acc_t*>(pick(p.norm_weights, l));
  const auto* norm_bias = static_cast<const acc_t*>(pick(p.norm_biases, l));
  const auto* bias = static_cast<const acc_t*>(pick(p.biases, l));
  auto* folded = static_cast<out_t*>(q.weight) + (l * p.R + row) * D;
  acc_t dot = 0;
#pragma unroll 4
  for (int64_t d = threadIdx.x; d < D; d += kWarp) {
    const acc_t w = weight[d];
    folded[d] = convert<out_t>(w * norm_weight[d]);
    dot += w * norm_bias[d];
  }
  dot = warp_sum(dot);
  if (threadIdx.x == 0)
    static_cast<out_t*>(q.bias)[l * p.R + row] = convert<out_t>(bias == nullptr ? dot : dot + bias[row]);
}

/// A block takes 32 columns (blockIdx.x) of a share of a layer's rows (blockIdx.y, blockIdx.z), its warps every
/// kRows-th row.
template <typename acc_t>
__global__ void __launch_bounds__(kRows* kWarp) fold_layer_norm_backward_kernel(const FoldLayerNormBackwardParams q) {
  const FoldLayerNormParams& p = q.of;
  const int64_t d = int64_t{blockIdx.x} * kWarp + threadIdx.x, D = p.D, share = (p.R + q.shares - 1) / q.shares;
  const int l = blockIdx.z;
  const bool exists = d < D;
  const auto* weight = static_cast<const acc_t*>(pick(p.weights, l));
  const auto* grad = static_cast<const acc_t*>(q.grad) + l * p.R * D;
  const auto* grad_bias = static_cast<const acc_t*>(q.grad_bias) + l * p.R;
  auto* weight_sum = static_cast<acc_t*>(pick(q.weight_sums, l));
  auto* bias_sum = static_cast<acc_t*>(pick(q.bias_sums, l));
  const acc_t norm_weight = exists ? static_cast<const acc_t*>(pick(p.norm_weights, l))[d] : acc_t(0);
  const acc_t norm_bias = exists ? static_cast<const acc_t*>(pick(p.norm_biases, l))[d] : acc_t(0);
  acc_t of_weight = 0, of_bias = 0;
  const int64_t end = min(p.R, (int64_t{blockIdx.y} + 1) * share);
#pragma unroll 4
  for (int64_t row = blockIdx.y * share + threadIdx.y; row < end; row += kRows) {
    const acc_t h = grad_bias[row];
    if (exists) {
      const acc_t g = grad[row * D + d], w = weight[row * D + d];
      weight_sum[row * D + d] += g * norm_weight + h * norm_bias;
      of_weight += g * w;
      of_bias += h * w;
    }
    if (d == 0 && bias_sum != nullptr) bias_sum[row] += h;
  }
  __shared__ acc_t sums[2][kRows][kWarp];
  sums[0][threadIdx.y][threadIdx.x] = of_weight;
  sums[1][threadIdx.y][threadIdx.x] = of_bias;
  __syncthreads();
  if (threadIdx.y >= 2 || !exists) return;
  acc_t sum = 0;
#pragma unroll
  for (int warp = 0; warp < kRows; ++warp) sum += sums[threadIdx.y][warp][threadIdx.x];
  static_cast<acc_t*>(q.partials)[((l * q.shares + blockIdx.y) * 2 + threadIdx.y) * D + d] = sum;
}

}  // namespace

void launch_fold_layer_norm_forward(const FoldLayerNormForwardParams& q, cudaStream_t stream) {
  const FoldLayerNormParams& p = q.of;
  if (p.R == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.R, kRows)), static_cast<unsigned>(p.layers)), block(kWarp, kRows);
  for_dtype(q.dtype, [&](auto type) {
    using out_t = typename decltype(type)::type;
    if constexpr (sizeof(out_t) == 8)
      fold_layer_norm_forward_kernel<double, double><<<grid, block, 0, stream>>>(q);
    else
      fold_layer_norm_forward_kernel<float, out_t><<<grid, block, 0, stream>>>(q);
  });
}

int64_t fold_layer_norm_shares(int64_t R) { return std::max<int64_t>(1, ceil_div(R, kRowsOfShare)); }

void launch_fold_layer_norm_backward(const FoldLayerNormBackwardParams& q, cudaStream_t stream) {
  const FoldLayerNormParams& p = q.of;
  if (p.D == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.D, kWarp)), static_cast<unsigned>(q.shares),
                  static_cast<unsigned>(p.layers)),
      block(kWarp, kRows);
  if (p.acc == Dtype::f64)
    fold_layer_norm_backward_kernel<double><<<grid, block, 0, stream>>>(q);
  else
    fold_layer_norm_backward_kernel<float><<<grid, block, 0, stream>>>(q);
}

}  // namespace memformer::ops
