// A warp takes a row, four numbers a lane and pack; a row wider than kMostPacks packs is read again in each sweep instead of held.
#include <algorithm>
#include <type_traits>

#include "core/cuda/numeric.cuh"
#include "ops/shared_norm/shared_norm.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kPack = 4, kWarpPack = kPack * kWarp, kWarps = 8;
constexpr int64_t kMostPartials = 264;  // two blocks a multiprocessor of an H100

/// Numbers d ... d + 3 of a row of D, zeros beyond its end; `whole`: rows may be read four at a time.
template <typename acc_t, typename T>
__device__ __forceinline__ void read(const T* row, int64_t d, int64_t D, bool whole, acc_t (&to)[kPack]) {
  if (whole) {
    load(row + d, to);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) to[i] = d + i < D ? convert<acc_t>(row[d + i]) : acc_t(0);
}

template <typename acc_t, typename T>
__device__ __forceinline__ void write(const acc_t (&from)[kPack], T* row, int64_t d, int64_t D, bool whole) {
  if (whole) {
    store(from, row + d);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i)
    if (d + i < D) row[d + i] = convert<T>(from[i]);
}

template <typename acc_t, typename out_t>
__global__ void __launch_bounds__(kWarps* kWarp) shared_norm_forward_kernel(const SharedNormParams p, bool whole) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* x = static_cast<const acc_t*>(p.x) + row * D;
  acc_t s[kPack], total = 0, square = 0;
  for (int64_t d = kPack * threadIdx.x; d < D; d += kWarpPack) {
    read(x, d, D, whole, s);
#pragma unroll
    for (int i = 0; i < kPack; ++i) total += s[i];
  }
  const acc_t mean = warp_sum(total) / static_cast<acc_t>(D);
  for (int64_t d = kPack * threadIdx.x; d < D; d += kWarpPack) {  // from the cache: a row is a few kilobytes
    read(x, d, D, whole, s);
#pragma unroll
    for (int i = 0; i < kPack; ++i) square += d + i < D ? (s[i] - mean) * (s[i] - mean) : acc_t(0);
  }
  const acc_t rstd = rsqrt(warp_sum(square) / static_cast<acc_t>(D) + static_cast<acc_t>(p.eps));
  for (int64_t d = kPack * threadIdx.x; d < D; d += kWarpPack) {
    read(x, d, D, whole, s);
#pragma unroll
    for (int l = 0; l < kSharedNorms; ++l) {
      if (l >= p.layers) break;
      acc_t w[kPack], b[kPack], y[kPack];
      read(static_cast<const acc_t*>(p.weights[l]), d, D, whole, w);
      read(static_cast<const acc_t*>(p.biases[l]), d, D, whole, b);
#pragma unroll
      for (int i = 0; i < kPack; ++i) y[i] = (s[i] - mean) * rstd * w[i] + b[i];
      write(y, static_cast<out_t*>(p.normed[l]) + row * D, d, D, whole);
    }
  }
  if (threadIdx.x == 0) {
    static_cast<acc_t*>(p.mean)[row] = mean;
    static_cast<acc_t*>(p.rstd)[row] = rstd;
  }
}

/// grad_x alone.
template <typename acc_t, typename out_t>
__global__ void __launch_bounds__(kWarps* kWarp) shared_norm_backward_kernel(const SharedNormBackwardParams q, bool whole) {
  const SharedNormParams& p = q.forward;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* x = static_cast<const acc_t*>(p.x) + row * D;
  const acc_t mean = static_cast<const acc_t*>(p.mean)[row], rstd = static_cast<const acc_t*>(p.rstd)[row];
  const auto gathered = [&](int64_t d, acc_t(&h)[kPack]) {  // h = sum of g_l w_l
#pragma unroll
    for (int i = 0; i < kPack; ++i) h[i] = 0;
#pragma unroll
    for (int l = 0; l < kSharedNorms; ++l) {
      if (l >= p.layers) break;
      acc_t w[kPack], g[kPack];
      read(static_cast<const acc_t*>(p.weights[l]), d, D, whole, w);
      read(static_cast<const out_t*>(p.normed[l]) + row * D, d, D, whole, g);
#pragma unroll
      for (int i = 0; i < kPack; ++i) h[i] += g[i] * w[i];
    }
  };
  acc_t s[kPack], h[kPack], sum_h = 0, sum_hz = 0;
  for (int64_t d = kPack * threadIdx.x; d < D; d += kWarpPack) {
    read(x, d, D, whole, s);
    gathered(d, h);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      sum_h += h[i];
      sum_hz += h[i] * (s[i] - mean) * rstd;
    }
  }
  const acc_t mean_h = warp_sum(sum_h) / static_cast<acc_t>(D), mean_hz = warp_sum(sum_hz) / static_cast<acc_t>(D);
  auto* grad_x = static_cast<acc_t*>(q.grad_x) + row * D;
  for (int64_t d = kPack * threadIdx.x; d < D; d += kWarpPack) {
    acc_t before[kPack] = {};
    read(x, d, D, whole, s);
    gathered(d, h);
    if (q.add_x) read(grad_x, d, D, whole, before);
#pragma unroll
    for (int i = 0; i < kPack; ++i) h[i] = before[i] + rstd * (h[i] - mean_h - (s[i] - mean) * rstd * mean_hz);
    write(h, grad_x, d, D, whole);
  }
}

/// Block (x, y): four columns a lane of 128, every gridDim.y-th group of kWarps rows from y; its warps' sums are joined at the end.
template <typename acc_t, typename out_t>
__global__ void __launch_bounds__(kWarps* kWarp) shared_norm_partials_kernel(const SharedNormBackwardParams q, bool whole) {
  const SharedNormParams& p = q.forward;
  const int64_t D = p.D, d = int64_t{blockIdx.x} * kWarpPack + kPack * threadIdx.x;
  acc_t of_weight[kSharedNorms][kPack] = {}, of_bias[kSharedNorms][kPack] = {};
  if (d < D)
    for (int64_t row = int64_t{blockIdx.y} * kWarps + threadIdx.y; row < p.N; row += int64_t{gridDim.y} * kWarps) {
      const acc_t mean = static_cast<const acc_t*>(p.mean)[row], rstd = static_cast<const acc_t*>(p.rstd)[row];
      acc_t s[kPack];
      read(static_cast<const acc_t*>(p.x) + row * D, d, D, whole, s);
#pragma unroll
      for (int l = 0; l < kSharedNorms; ++l) {
        if (l >= p.layers) break;
        acc_t g[kPack];
        read(static_cast<const out_t*>(p.normed[l]) + row * D, d, D, whole, g);
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          of_weight[l][i] += g[i] * (s[i] - mean) * rstd;
          of_bias[l][i] += g[i];
        }
      }
    }
  __shared__ acc_t sums[kWarps][kWarpPack];
  for (int k = 0; k < 2 * p.layers; ++k) {
    __syncthreads();
#pragma unroll
    for (int l = 0; l < kSharedNorms; ++l)
      if (l == k / 2)
#pragma unroll
        for (int i = 0; i < kPack; ++i) sums[threadIdx.y][kPack * threadIdx.x + i] = k % 2 == 0 ? of_weight[l][i] : of_bias[l][i];
    __syncthreads();
    if (threadIdx.y != 0) continue;
    for (int c = threadIdx.x; c < kWarpPack; c += kWarp) {
      const int64_t column = int64_t{blockIdx.x} * kWarpPack + c;
      if (column >= D) break;
      acc_t sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp][c];
      static_cast<acc_t*>(q.partials)[(int64_t{blockIdx.y} * 2 * kSharedNorms + k) * D + column] = sum;
    }
  }
}

/// The sums of the partials: 32 columns a block of 32 x 32; warp y adds up column y in the end. Block y: of one weight or bias.
template <typename acc_t>
__global__ void __launch_bounds__(kWarp* kWarp) shared_norm_sums_kernel(const SharedNormBackwardParams q, int64_t blocks) {
  __shared__ acc_t sums[kWarp][kWarp + 1];
  const int64_t D = q.forward.D, column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const int k = blockIdx.y;
  acc_t sum = 0;
  if (column < D)
    for (int64_t block = threadIdx.y; block < blocks; block += kWarp)
      sum += static_cast<const acc_t*>(q.partials)[(block * 2 * kSharedNorms + k) * D + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(sums[threadIdx.x][threadIdx.y]);
  const int64_t mine = int64_t{blockIdx.x} * kWarp + threadIdx.y;
  if (threadIdx.x != 0 || mine >= D) return;
  void* of_weight = nullptr;
  void* of_bias = nullptr;
#pragma unroll
  for (int l = 0; l < kSharedNorms; ++l)
    if (l == k / 2) {
      of_weight = q.weight_sums[l];
      of_bias = q.bias_sums[l];
    }
  acc_t* to = static_cast<acc_t*>(k % 2 == 0 ? of_weight : of_bias) + mine;
  *to = q.add_sums ? *to + sum : sum;
}

/// Calls `body` with the types of x and of the normed ones, and whether all rows may be read four at a time.
template <typename Body>
void for_types(const SharedNormParams& p, Body&& body) {
  for_dtype(p.dtype, [&](auto out_type) {
    using out_t = typename decltype(out_type)::type;
    const auto run = [&](auto x_type) {
      using acc_t = typename decltype(x_type)::type;
      bool whole = fits_packs<kPack>(static_cast<const acc_t*>(p.x), p.D);
      for (int l = 0; l < p.layers; ++l)
        whole = whole && fits_packs<kPack>(static_cast<const acc_t*>(p.weights[l]), p.D) &&
                fits_packs<kPack>(static_cast<const acc_t*>(p.biases[l]), p.D) && fits_packs<kPack>(static_cast<const out_t*>(p.normed[l]), p.D);
      body(x_type, out_type, whole);
    };
    if constexpr (std::is_same_v<out_t, double>) run(Type<double>());
    else if (p.x_dtype == Dtype::f32) run(Type<float>());
  });
}

}  // namespace

void launch_shared_norm_forward(const SharedNormParams& p, cudaStream_t stream) {
  for_types(p, [&](auto x_type, auto out_type, bool whole) {
    shared_norm_forward_kernel<typename decltype(x_type)::type, typename decltype(out_type)::type>
        <<<ceil_div(p.N, kWarps), dim3(kWarp, kWarps), 0, stream>>>(p, whole);
  });
}

int64_t shared_norm_partials(int64_t N) { return std::min(kMostPartials, ceil_div(N, kWarps)); }

void launch_shared_norm_backward(const SharedNormBackwardParams& q, cudaStream_t stream) {
  const SharedNormParams& p = q.forward;
  for_types(p, [&](auto x_type, auto out_type, bool whole) {
    using acc_t = typename decltype(x_type)::type;
    using out_t = typename decltype(out_type)::type;
    const dim3 block(kWarp, kWarps);
    const int64_t columns = ceil_div(p.D, kWarpPack), partials = shared_norm_partials(p.N);
    shared_norm_backward_kernel<acc_t, out_t><<<ceil_div(p.N, kWarps), block, 0, stream>>>(q, whole);
    shared_norm_partials_kernel<acc_t, out_t><<<dim3(columns, partials), block, 0, stream>>>(q, whole);
    shared_norm_sums_kernel<acc_t><<<dim3(ceil_div(p.D, kWarp), 2 * p.layers), dim3(kWarp, kWarp), 0, stream>>>(q, partials);
  });
}

}  // namespace memformer::ops
