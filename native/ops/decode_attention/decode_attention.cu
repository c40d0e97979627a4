// One block a (row, head). Sums have one order whatever rows are beside: a row's numbers are its own.
#include "ops/decode_attention/decode_attention.cuh"
#include "core/cuda/numeric.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_append_kernel(const DecodeAppendParams p) {
  using acc_t = accumulate_t<T>;
  const int64_t r = blockIdx.x;
  const int64_t slot = p.slots[r], position = p.positions[r];
  const bool inside = slot >= 0 && slot < p.S && position >= 0 && position < p.T;
  const int D = p.H * p.E, half = p.E / 2;
  const auto* qkv = static_cast<const T*>(p.qkv) + r * 3 * D;
  for (int i = threadIdx.x; i < 3 * D; i += kThreads) {
    const int part = i / D, d = i % D, h = d / p.E, e = d % p.E;
    auto x = convert<acc_t>(qkv[i]);
    if (p.cos != nullptr && part < 2 && inside) {
      const bool first = e < half;
      const int64_t angle = position * half + (first ? e : e - half);
      const auto other = convert<acc_t>(qkv[first ? i + half : i - half]);
      const acc_t cos = static_cast<const acc_t*>(p.cos)[angle], sin = static_cast<const acc_t*>(p.sin)[angle];
      x = first ? x * cos - other * sin : x * cos + other * sin;
    }
    const int64_t place = ((slot * p.H + h) * p.T + position) * p.E + e;
    if (part == 0)
      static_cast<T*>(p.q)[r * D + d] = convert<T>(x);
    else if (inside)
      static_cast<T*>(part == 1 ? p.keys : p.values)[place] = convert<T>(x);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const DecodeAttentionParams p) {
  using acc_t = accumulate_t<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* weights = reinterpret_cast<acc_t*>(shared);  // (N)
  const int64_t r = blockIdx.x;
  const int h = blockIdx.y, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int64_t slot = p.slots == nullptr ? r : p.slots[r];
  slot = slot < 0 ? 0 : slot >= p.S ? p.S - 1 : slot;
  int64_t n = p.lengths == nullptr ? p.N : p.lengths[r];
  n = n < 1 ? 1 : n > p.N ? p.N : n;
  const auto* q = static_cast<const T*>(p.q) + (r * p.H + h) * p.E;
  const auto* keys = static_cast<const T*>(p.keys.data) + slot * p.keys.s + h * p.keys.h;
  const auto* values = static_cast<const T*>(p.values.data) + slot * p.values.s + h * p.values.h;
  const acc_t scale = acc_t(1) / sqrt(static_cast<acc_t>(p.E));
  for (int64_t j = warp; j < n; j += kWarps) {
    acc_t sum = 0;
    for (int e = lane; e < p.E; e += kWarp) sum += convert<acc_t>(q[e]) * convert<acc_t>(keys[j * p.keys.n + e]);
    sum = warp_sum(sum) * scale;
    if (p.bias != nullptr) sum += static_cast<const acc_t*>(p.bias)[(r * p.H + h) * p.N + j];
    if (lane == 0) weights[j] = sum;
  }
  __syncthreads();
  acc_t most = weights[0];
  for (int64_t j = threadIdx.x; j < n; j += kThreads) most = max(most, weights[j]);
  most = block_max<kThreads>(most);
  acc_t total = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) {
    weights[j] = exp(weights[j] - most);
    total += weights[j];
  }
  total = block_sum<kThreads>(total);  // its barriers: every weight is there
  __syncthreads();
  for (int e = threadIdx.x; e < p.E; e += kThreads) {
    acc_t sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += weights[j] * convert<acc_t>(values[j * p.values.n + e]);
    static_cast<T*>(p.y)[(r * p.H + h) * p.E + e] = convert<T>(sum / total);
  }
}

}  // namespace

void launch_decode_append(const DecodeAppendParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    decode_append_kernel<typename decltype(type)::type><<<static_cast<unsigned>(p.R), kThreads, 0, stream>>>(p);
  });
}

void launch_decode_attention(const DecodeAttentionParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(p.R), static_cast<unsigned>(p.H));
    decode_attention_kernel<T><<<grid, kThreads, p.N * sizeof(accumulate_t<T>), stream>>>(p);
  });
}

}  // namespace memformer::ops
