#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/biased_norm/biased_norm.cuh"

// A warp takes a row: lane l holds its numbers wide (32 k + l) ... + wide - 1, k < packs, in registers, and reads each
// input once. Rows of other widths go through the kernels "of any width", a number a lane at a time.
namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kRows = 4;           // of a block of the forward pass, where there are many
constexpr int kMostWarps = 8;      // of a block of the backward pass
constexpr int64_t kFewRows = 528;  // four for each multiprocessor of an H100

template <typename scalar_t>
constexpr int kWide = 16 / sizeof(scalar_t);

__device__ __forceinline__ bool starts_anew(const bool* reset, int64_t b) { return reset != nullptr && reset[b]; }

/// Whether row b keeps its memory: its segment had no token, and it does not start anew.
template <typename Params>
__device__ __forceinline__ bool is_kept(const Params& p, int64_t b) {
  return p.lengths != nullptr && p.lengths[b] <= 0 && !starts_anew(p.reset, b);
}

template <typename scalar_t, int packs>
__global__ void __launch_bounds__(kRows* kWarp) biased_norm_forward_kernel(const BiasedNormForwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int wide = kWide<scalar_t>;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, D = p.D;
  if (row >= p.B * p.M) return;
  const auto* memory = static_cast<const scalar_t*>(p.memory) + row * D;
  const auto* bias = static_cast<const scalar_t*>(p.bias) + (row % p.M) * D;
  const bool anew = starts_anew(p.reset, row / p.M), kept = is_kept(p, row / p.M);
  acc_t s[packs][wide] = {}, v[packs][wide] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k)
    if (const int64_t d = (k * kWarp + threadIdx.x) * wide; d < D) {
      if (!anew) load(memory + d, s[k]);
      if (!kept) load(bias + d, v[k]);
    }
  acc_t square = 0;
#pragma unroll
  for (int k = 0; k < packs; ++k)
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      s[k][i] += v[k][i];  // what lies beyond D is 0
      square += s[k][i] * s[k][i];
    }
  const acc_t root = sqrt(warp_sum(square)), eps = static_cast<acc_t>(p.eps),
              norm = kept         ? acc_t(1)
                     : root < eps ? eps
                                  : root,
              inverse = acc_t(1) / norm;
  auto* y = static_cast<scalar_t*>(p.y) + row * D;
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const int64_t d = (k * kWarp + threadIdx.x) * wide;
    if (d >= D) continue;
#pragma unroll
    for (int i = 0; i < wide; ++i) s[k][i] *= inverse;
    store(s[k], y + d);
  }
  if (threadIdx.x == 0) static_cast<acc_t*>(p.norm)[row] = norm;
}

template <typename scalar_t>
__global__ void biased_norm_forward_of_any_width_kernel(const BiasedNormForwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y, D = p.D;
  if (row >= p.B * p.M) return;
  const auto* memory = static_cast<const scalar_t*>(p.memory) + row * D;
  const auto* bias = static_cast<const scalar_t*>(p.bias) + (row % p.M) * D;
  const bool anew = starts_anew(p.reset, row / p.M), kept = is_kept(p, row / p.M);
  const auto s = [&](int64_t d) {
    return (anew ? acc_t(0) : convert<acc_t>(memory[d])) + (kept ? acc_t(0) : convert<acc_t>(bias[d]));
  };
  acc_t square = 0;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) square += s(d) * s(d);
  const acc_t root = sqrt(warp_sum(square)), eps = static_cast<acc_t>(p.eps),
              norm = kept         ? acc_t(1)
                     : root < eps ? eps
                                  : root;
  auto* y = static_cast<scalar_t*>(p.y) + row * D;
  for (int64_t d = threadIdx.x; d < D; d += kWarp) y[d] = convert<scalar_t>(s(d) / norm);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.norm)[row] = norm;
}

/// A block takes slot blockIdx.x, its warps every blockDim.y-th row of that slot; what they sum over the rows is joined
/// at the end, warp 0 first.
template <typename scalar_t, int packs>
__global__ void __launch_bounds__(kMostWarps* kWarp) biased_norm_backward_kernel(const BiasedNormBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int wide = kWide<scalar_t>;
  const int64_t D = p.D;
  acc_t sum[packs][wide] = {};
  for (int64_t b = threadIdx.y; b < p.B; b += blockDim.y) {
    const int64_t row = b * p.M + blockIdx.x;
    const bool anew = starts_anew(p.reset, b), kept = is_kept(p, b);
    acc_t g[packs][wide] = {}, y[packs][wide] = {};
#pragma unroll
    for (int k = 0; k < packs; ++k)
      if (const int64_t d = (k * kWarp + threadIdx.x) * wide; d < D) {
        load(static_cast<const scalar_t*>(p.grad) + row * D + d, g[k]);
        load(static_cast<const scalar_t*>(p.y) + row * D + d, y[k]);
      }
    const acc_t norm = static_cast<const acc_t*>(p.norm)[row], inverse = acc_t(1) / norm;
    acc_t dot = 0;
#pragma unroll
    for (int k = 0; k < packs; ++k)
#pragma unroll
      for (int i = 0; i < wide; ++i) dot += y[k][i] * g[k][i];
    dot = warp_sum(dot);
    if (norm <= static_cast<acc_t>(p.eps) || kept) dot = 0;  // the norm was clamped: a constant
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int64_t d = (k * kWarp + threadIdx.x) * wide;
      if (d >= D) continue;
#pragma unroll
      for (int i = 0; i < wide; ++i) {
        g[k][i] = (g[k][i] - y[k][i] * dot) * inverse;
        if (!kept) sum[k][i] += g[k][i];
        if (anew) g[k][i] = 0;
      }
      store(g[k], static_cast<scalar_t*>(p.grad_memory) + row * D + d);
    }
  }
  __shared__ alignas(16) acc_t sums[kMostWarps][kWarp * wide];
  auto* grad_bias = static_cast<scalar_t*>(p.grad_bias) + blockIdx.x * D;
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    if (k > 0) __syncthreads();
    store(sum[k], &sums[threadIdx.y][threadIdx.x * wide]);
    __syncthreads();
    for (int column = threadIdx.y * kWarp + threadIdx.x; column < kWarp * wide; column += blockDim.y * kWarp) {
      acc_t total = 0;
      for (int warp = 0; warp < blockDim.y; ++warp) total += sums[warp][column];
      if (const int64_t d = k * kWarp * wide + column; d < D) grad_bias[d] = convert<scalar_t>(total);
    }
  }
}

template <typename scalar_t>
__global__ void biased_norm_backward_of_any_width_kernel(const BiasedNormBackwardParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t D = p.D;
  auto* grad_memory = static_cast<scalar_t*>(p.grad_memory);
  for (int64_t b = threadIdx.y; b < p.B; b += blockDim.y) {
    const int64_t row = b * p.M + blockIdx.x;
    const auto g = [&](int64_t d) { return convert<acc_t>(static_cast<const scalar_t*>(p.grad)[row * D + d]); };
    const auto y = [&](int64_t d) { return convert<acc_t>(static_cast<const scalar_t*>(p.y)[row * D + d]); };
    acc_t dot = 0;
    for (int64_t d = threadIdx.x; d < D; d += kWarp) dot += y(d) * g(d);
    const acc_t norm = static_cast<const acc_t*>(p.norm)[row];
    dot = warp_sum(dot);
    if (norm <= static_cast<acc_t>(p.eps) || is_kept(p, b)) dot = 0;
    for (int64_t d = threadIdx.x; d < D; d += kWarp)
      grad_memory[row * D + d] = convert<scalar_t>((g(d) - y(d) * dot) / norm);
  }
  __syncthreads();  // the block's rows have been written
  for (int64_t d = threadIdx.y * kWarp + threadIdx.x; d < D; d += blockDim.y * kWarp) {
    acc_t sum = 0;
    for (int64_t b = 0; b < p.B; ++b) {
      auto& sent = grad_memory[(b * p.M + blockIdx.x) * D + d];
      if (!is_kept(p, b)) sum += convert<acc_t>(sent);
      if (starts_anew(p.reset, b)) sent = convert<scalar_t>(acc_t(0));
    }
    static_cast<scalar_t*>(p.grad_bias)[blockIdx.x * D + d] = convert<scalar_t>(sum);
  }
}

/// Calls `body` with the packs a lane holds of a row of D numbers, 0 where that is too much.
template <typename scalar_t, typename Body>
void for_packs(bool packed, int64_t D, Body&& body) {
  constexpr int64_t each = kWarp * kWide<scalar_t>;
  if (packed && D <= each) return body(std::integral_constant<int, 1>());
  if (packed && D <= 2 * each) return body(std::integral_constant<int, 2>());
  if (packed && D <= 4 * each) return body(std::integral_constant<int, 4>());
  if constexpr (sizeof(scalar_t) > 2)
    if (packed && D <= 8 * each) return body(std::integral_constant<int, 8>());
  body(std::integral_constant<int, 0>());
}

template <typename scalar_t>
bool fits(const void* pointer, int64_t D) {
  return fits_packs<kWide<scalar_t>>(static_cast<const scalar_t*>(pointer), D);
}

}  // namespace

void launch_biased_norm_forward(const BiasedNormForwardParams& p, cudaStream_t stream) {
  const int64_t rows = p.B * p.M;
  if (rows * p.D == 0) return;
  const dim3 block(kWarp, rows <= kFewRows ? 1 : kRows), grid(static_cast<unsigned>((rows + block.y - 1) / block.y));
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    const bool packed = fits<scalar_t>(p.memory, p.D) && fits<scalar_t>(p.bias, p.D) && fits<scalar_t>(p.y, p.D);
    for_packs<scalar_t>(packed, p.D, [&](auto packs) {
      if constexpr (packs > 0)
        biased_norm_forward_kernel<scalar_t, packs><<<grid, block, 0, stream>>>(p);
      else
        biased_norm_forward_of_any_width_kernel<scalar_t><<<grid, block, 0, stream>>>(p);
    });
  });
}

void launch_biased_norm_backward(const BiasedNormBackwardParams& p, cudaStream_t stream) {
  if (p.M * p.D == 0) return;
  const dim3 block(kWarp, static_cast<unsigned>(std::clamp<int64_t>(p.B, 1, kMostWarps)));
  const auto slots = static_cast<unsigned>(p.M);
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    const bool packed = fits<scalar_t>(p.grad, p.D) && fits<scalar_t>(p.y, p.D) && fits<scalar_t>(p.grad_memory, p.D);
    for_packs<scalar_t>(packed, p.D, [&](auto packs) {
      if constexpr (packs > 0)
        biased_norm_backward_kernel<scalar_t, packs><<<slots, block, 0, stream>>>(p);
      else
        biased_norm_backward_of_any_width_kernel<scalar_t><<<slots, block, 0, stream>>>(p);
    });
  });
}

}  // namespace memformer::ops
