// A team of lanes, a power of two of at most a warp, takes a chunk: 16 bytes a lane at a time where the chunk allows
// it, else a number. A chunk is read twice, the second time from the cache.
#include <algorithm>
#include <type_traits>

#include "core/cuda/numeric.cuh"
#include "ops/common/head_norm_eps.h"
#include "ops/head_norm/head_norm.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

/// The sum over a team, in each of its lanes. All lanes of the warp must come here.
template <int team, typename T>
__device__ __forceinline__ T team_sum(T value) {
#pragma unroll
  for (int offset = team / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

/// Where a team stands: its chunk, and the chunk's place among the normed, or -1.
struct Place {
  int64_t chunk, normed, in_group;
};

template <typename Params>
__device__ __forceinline__ Place place_of(const Params& p, int64_t chunk) {
  const auto of = static_cast<int64_t>(quotient(chunk, p.group)), in_group = chunk - of * p.group;
  return {chunk, in_group < p.normed ? of * p.normed + in_group : -1, in_group};
}

/// Of a normed chunk, the common one and its own.
template <typename acc_t, typename Params>
__device__ __forceinline__ acc_t gain_of(const Params& p, const Place& place) {
  const auto gain = static_cast<acc_t>(p.gain);
  return p.gains == nullptr ? gain : gain * static_cast<const acc_t*>(p.gains)[place.in_group];
}

template <typename T, int wide, int team>
__global__ void __launch_bounds__(kThreads) head_norm_kernel(const HeadNormParams p) {
  using acc_t = accumulate_t<T>;
  const int64_t chunk = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / team;
  const bool here = chunk < p.chunks;
  const Place place = place_of(p, here ? chunk : 0);
  const auto* from = static_cast<const T*>(p.x) + place.chunk * p.E;
  auto* to = static_cast<T*>(p.y) + place.chunk * p.E;
  const int64_t first = threadIdx.x % team * wide;
  const bool norms = here && place.normed >= 0;
  acc_t x[wide], sum = 0;
  if (norms)
    for (int64_t e = first; e < p.E; e += team * wide) {
      load(from + e, x);
#pragma unroll
      for (int i = 0; i < wide; ++i) sum += x[i] * x[i];
    }
  sum = team_sum<team>(sum);
  if (!here || (!norms && p.x == p.y)) return;
  const acc_t r = norms ? acc_t(1) / sqrt(sum / static_cast<acc_t>(p.E) + static_cast<acc_t>(kHeadNormEps)) : acc_t(1);
  const acc_t by = norms ? gain_of<acc_t>(p, place) * r : acc_t(1);
  for (int64_t e = first; e < p.E; e += team * wide) {
    load(from + e, x);
#pragma unroll
    for (int i = 0; i < wide; ++i) x[i] *= by;
    store(x, to + e);
  }
  if (norms && first == 0) static_cast<acc_t*>(p.r)[place.normed] = r;
}

template <typename T, int wide, int team>
__global__ void __launch_bounds__(kThreads) head_norm_backward_kernel(const HeadNormBackwardParams p) {
  using acc_t = accumulate_t<T>;
  const int64_t chunk = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / team;
  const bool here = chunk < p.chunks;
  const Place place = place_of(p, here ? chunk : 0);
  const int64_t start = place.chunk * p.E, first = threadIdx.x % team * wide;
  const auto *grad = static_cast<const T*>(p.grad) + start, *of_y = static_cast<const T*>(p.y) + start;
  auto* to = static_cast<T*>(p.sent) + start;
  const bool norms = here && place.normed >= 0;
  acc_t g[wide], y[wide], dot = 0;
  if (norms)
    for (int64_t e = first; e < p.E; e += team * wide) {
      load(grad + e, g);
      load(of_y + e, y);
#pragma unroll
      for (int i = 0; i < wide; ++i) dot += g[i] * y[i];
    }
  dot = team_sum<team>(dot);
  if (!here) return;
  const auto gain = static_cast<acc_t>(p.gain);
  const acc_t r = norms ? static_cast<const acc_t*>(p.r)[place.normed] : acc_t(1);
  const acc_t by = norms ? gain_of<acc_t>(p, place) * r : acc_t(1);
  // Of y, or with gains of x = z / r.
  const acc_t mean = dot / static_cast<acc_t>(p.E) * (p.gains == nullptr ? acc_t(1) / (gain * gain) : r * r);
  if (norms && p.gains != nullptr && first == 0) static_cast<acc_t*>(p.dots)[place.normed] = gain * r * dot;
  for (int64_t e = first; e < p.E; e += team * wide) {
    load(grad + e, g);
    if (norms) {
      load(of_y + e, y);
#pragma unroll
      for (int i = 0; i < wide; ++i) g[i] = by * (g[i] - y[i] * mean);
    }
    store(g, to + e);
  }
}

/// Calls body(Type<T>(), numbers a lane reads at once, lanes of a team).
template <typename Body>
void for_chunk(Dtype dtype, int64_t E, std::initializer_list<const void*> pointers, Body&& body) {
  for_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int wide = 16 / sizeof(T);
    const bool packed = std::all_of(pointers.begin(), pointers.end(), [&](const void* pointer) {
      return fits_packs<wide>(static_cast<const T*>(pointer), E);
    });
    const auto team = [&](auto width) {
      constexpr int each = decltype(width)::value;
      const int64_t lanes = ceil_div(E, each);
      if (lanes <= 8) return body(type, width, std::integral_constant<int, 8>());
      if (lanes <= 16) return body(type, width, std::integral_constant<int, 16>());
      body(type, width, std::integral_constant<int, kWarp>());
    };
    if (packed)
      team(std::integral_constant<int, wide>());
    else
      team(std::integral_constant<int, 1>());
  });
}

}  // namespace

void launch_head_norm(const HeadNormParams& p, cudaStream_t stream) {
  for_chunk(p.dtype, p.E, {p.x, p.y}, [&](auto type, auto wide, auto team) {
    const auto blocks = static_cast<unsigned>(ceil_div(p.chunks * team.value, kThreads));
    head_norm_kernel<typename decltype(type)::type, wide.value, team.value><<<blocks, kThreads, 0, stream>>>(p);
  });
}

void launch_head_norm_backward(const HeadNormBackwardParams& p, cudaStream_t stream) {
  for_chunk(p.dtype, p.E, {p.grad, p.y, p.sent}, [&](auto type, auto wide, auto team) {
    const auto blocks = static_cast<unsigned>(ceil_div(p.chunks * team.value, kThreads));
    head_norm_backward_kernel<typename decltype(type)::type, wide.value, team.value>
        <<<blocks, kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
