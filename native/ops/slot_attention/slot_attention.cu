#include "ops/slot_attention/slot_attention.cuh"
#include "core/cuda/numeric.cuh"

// A group of `lanes` neighbouring lanes, a power of two, takes a head of a slot, 8 numbers a lane; where a head has
// fewer packs, the last lanes of its group idle.
namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kWide = 8;
constexpr int kThreads = 256;

template <int lanes>
__device__ __forceinline__ float group_sum(float value) {
#pragma unroll
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

/// Where a thread's work lies.
struct Place {
  int64_t first;    // of its numbers in (B, M, D)
  int64_t head;     // of its head in (B, H, M)
  int64_t b, h, m;  // of its head
  bool busy;        // it has numbers
  bool leads;       // it is the first of its head's lanes
};

/// Threads beyond the last head get the first one's place and idle: the sums over lanes need them all.
template <int lanes>
__device__ __forceinline__ Place place_of(const SlotSizes& size) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x, item = thread / lanes;
  const int lane = threadIdx.x % lanes;
  const bool within = item < size.B * size.M * size.H, busy = within && lane * kWide < size.E;
  const int64_t row = item / size.H, h = item % size.H, b = row / size.M, m = row % size.M;
  if (!within) return {0, 0, 0, 0, 0, false, false};
  return {busy ? item * size.E + lane * kWide : 0, (b * size.H + h) * size.M + m, b, h, m, busy, lane == 0};
}

__device__ __forceinline__ float dot(const float (&a)[kWide], const float (&b)[kWide]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWide; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename narrow_t, typename wide_t, int lanes>
__global__ void __launch_bounds__(kThreads) slot_mix_kernel(const SlotMixParams p) {
  const Place place = place_of<lanes>(p.size);
  float q[kWide] = {}, k[kWide] = {}, own[kWide] = {}, tokens[kWide] = {};
  if (place.busy) {
    load(static_cast<const narrow_t*>(p.query) + place.first, q);
    load(static_cast<const narrow_t*>(p.self_key) + place.first, k);
    load(static_cast<const wide_t*>(p.own) + place.first, own);
    load(static_cast<const narrow_t*>(p.y_tokens) + place.first, tokens);
  }
  const bool empty = p.lengths != nullptr && p.lengths[place.b] <= 0;
  const float token_lse = empty ? -INFINITY : p.token_lse[place.b * p.lse_b + place.h * p.lse_h + place.m];
  const float self = group_sum<lanes>(dot(q, k)) * p.scale, above = self - token_lse;
  const float self_weight = 1.0f / (1.0f + expf(-above)), token_weight = 1.0f / (1.0f + expf(above));
  if (place.leads) p.lse[place.head] = fmaxf(self, token_lse) + log1pf(expf(-fabsf(above)));
  if (!place.busy) return;
  if (!empty) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) own[i] = self_weight * own[i] + token_weight * tokens[i];
  }
  store(own, static_cast<wide_t*>(p.y) + place.first);
}

template <typename narrow_t, typename wide_t, int lanes>
__global__ void __launch_bounds__(kThreads) slot_self_backward_kernel(const SlotSelfBackwardParams p) {
  const Place place = place_of<lanes>(p.size);
  float g[kWide] = {}, y[kWide] = {}, q[kWide] = {}, k[kWide] = {}, own[kWide] = {};
  if (place.busy) {
    load(static_cast<const wide_t*>(p.grad) + place.first, g);
    load(static_cast<const wide_t*>(p.y) + place.first, y);
    load(static_cast<const narrow_t*>(p.query) + place.first, q);
    load(static_cast<const narrow_t*>(p.self_key) + place.first, k);
    load(static_cast<const wide_t*>(p.own) + place.first, own);
  }
  const float self = group_sum<lanes>(dot(q, k)) * p.scale;
  float above_y[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) above_y[i] = own[i] - y[i];
  if (p.delta != nullptr) {
    float rounded[kWide];
#pragma unroll
    for (int i = 0; i < kWide; ++i) rounded[i] = widen(convert<narrow_t>(g[i]));
    const float delta = group_sum<lanes>(dot(rounded, y));
    if (place.leads) p.delta[place.head] = delta;
  }
  const float self_weight = expf(self - p.lse[place.head]);
  const float grad_self = self_weight * group_sum<lanes>(dot(g, above_y)) * p.scale;
  if (!place.busy) return;
  if (p.narrow_grad != nullptr) store(g, static_cast<narrow_t*>(p.narrow_grad) + place.first);
  if (p.narrow_y != nullptr) store(y, static_cast<narrow_t*>(p.narrow_y) + place.first);
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    q[i] *= grad_self;
    k[i] *= grad_self;
    g[i] *= self_weight;
  }
  store(k, static_cast<narrow_t*>(p.grad_query) + place.first);
  store(q, static_cast<narrow_t*>(p.grad_self_key) + place.first);
  store(g, static_cast<wide_t*>(p.grad_own) + place.first);
}

/// Calls `body` with the dtypes and the lanes of a head.
template <typename Body>
void for_heads(Dtype narrow, Dtype dtype, int E, Body&& body) {
  const auto with_lanes = [&](auto narrow_type, auto wide_type) {
    const auto call = [&](auto lanes) { body(narrow_type, wide_type, lanes); };
    if (E <= kWide)
      call(std::integral_constant<int, 1>());
    else if (E <= 2 * kWide)
      call(std::integral_constant<int, 2>());
    else if (E <= 4 * kWide)
      call(std::integral_constant<int, 4>());
    else if (E <= 8 * kWide)
      call(std::integral_constant<int, 8>());
    else if (E <= 16 * kWide)
      call(std::integral_constant<int, 16>());
    else
      call(std::integral_constant<int, 32>());
  };
  for_dtype(narrow, [&](auto narrow_type) {
    using narrow_t = typename decltype(narrow_type)::type;
    if constexpr (sizeof(narrow_t) == 2) {
      if (dtype == Dtype::f32)
        with_lanes(narrow_type, Type<float>());
      else
        with_lanes(narrow_type, narrow_type);
    }
  });
}

template <typename Params>
unsigned blocks_of(const Params& p, int lanes) {
  return static_cast<unsigned>((p.size.B * p.size.M * p.size.H * lanes + kThreads - 1) / kThreads);
}

}  // namespace

void launch_slot_mix(const SlotMixParams& p, cudaStream_t stream) {
  if (p.size.B * p.size.M * p.size.H == 0) return;
  for_heads(p.narrow, p.dtype, p.size.E, [&](auto narrow_type, auto wide_type, auto lanes) {
    using narrow_t = typename decltype(narrow_type)::type;
    using wide_t = typename decltype(wide_type)::type;
    slot_mix_kernel<narrow_t, wide_t, lanes><<<blocks_of(p, lanes), kThreads, 0, stream>>>(p);
  });
}

void launch_slot_self_backward(const SlotSelfBackwardParams& p, cudaStream_t stream) {
  if (p.size.B * p.size.M * p.size.H == 0) return;
  for_heads(p.narrow, p.dtype, p.size.E, [&](auto narrow_type, auto wide_type, auto lanes) {
    using narrow_t = typename decltype(narrow_type)::type;
    using wide_t = typename decltype(wide_type)::type;
    slot_self_backward_kernel<narrow_t, wide_t, lanes><<<blocks_of(p, lanes), kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
