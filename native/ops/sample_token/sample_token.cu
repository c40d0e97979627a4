// One block a row. The masses exp((logit - top) / temperature) lie in shared memory as floats; sums of them are whole
// numbers, so that no order of adding changes one, and a row draws the same each time. Where a cumulated mass is passed
// is found by halving the interval of masses: all that is asked for is how much lies above one.
#include <cfloat>

#include "core/cuda/numeric.cuh"
#include "ops/sample_token/sample_token.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 1024;
constexpr float kUnit = 17592186044416.0f;  // 2^44: the mass of the likeliest token; 2^18 of them fit into 63 bits
using Mass = unsigned long long;

__device__ __forceinline__ Mass whole(float mass) { return static_cast<Mass>(mass * kUnit); }

/// What is drawn from: tokens of a mass above `least`, and of those of mass `least` the first `ties`.
struct Kept {
  float least;
  int ties;
  Mass mass;
};

struct Row {
  const float* masses;  // in shared memory; < 0: never drawn
  int V;

  /// Mass, or with `counts` number, of the tokens above `bound`.
  template <bool counts>
  __device__ Mass above(float bound) const {
    Mass sum = 0;
    for (int i = threadIdx.x; i < V; i += kThreads)
      if (masses[i] > bound) sum += counts ? 1 : whole(masses[i]);
    return block_sum<kThreads>(sum);
  }
  __device__ int number_of(float mass) const {
    int sum = 0;
    for (int i = threadIdx.x; i < V; i += kThreads) sum += masses[i] == mass;
    return block_sum<kThreads>(sum);
  }

  /// The mass of the token with which the cumulated mass (or number), from the likeliest on, passes `target`: the least
  /// mass above which no more than `target` lies. Non-negative floats lie in the order of their bits.
  template <bool counts>
  __device__ float passing(Mass target) const {
    uint32_t low = 0, high = __float_as_uint(1.0f);  // the answer lies in [low, high]
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (above<counts>(__uint_as_float(middle)) <= target)
        high = middle;
      else
        low = middle + 1;
    }
    return __uint_as_float(low);
  }

  /// The id of the token that has `before` others of the same mass before it; ties are rare, and are gone through one
  /// by one.
  __device__ int token(float mass, int before) const {
    int after = -1;
    for (int tie = 0;; ++tie) {
      int nearest = 0;  // V - id
      for (int i = threadIdx.x; i < V; i += kThreads)
        if (i > after && masses[i] == mass) {
          nearest = V - i;
          break;
        }
      nearest = block_max<kThreads>(nearest);
      if (nearest == 0) return after;
      after = V - nearest;
      if (tie == before) return after;
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) sample_token_kernel(const SampleTokenParams p) {
  extern __shared__ float masses[];
  const auto* logits = static_cast<const T*>(p.logits) + int64_t{blockIdx.x} * p.V;
  const auto drawable = [&](int id) { return id < p.tokens || id == p.also; };
  // The likeliest, the first of several: the order of floats as whole numbers, then of ids backwards.
  unsigned long long best = 0;
  int unfit = 0;
  for (int i = threadIdx.x; i < p.V; i += kThreads) {
    const float logit = convert<float>(logits[i]);
    if (!(logit <= FLT_MAX)) unfit = 1;
    if (!drawable(i)) continue;
    const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);
    const uint32_t order = bits >> 31 ? ~bits : bits | 0x80000000u;
    best = max(best, static_cast<unsigned long long>(order) << 32 | (0xffffffffu - static_cast<uint32_t>(i)));
  }
  best = block_max<kThreads>(best);
  unfit = block_max<kThreads>(unfit);
  const int likeliest = static_cast<int>(0xffffffffu - static_cast<uint32_t>(best));
  const float top = best == 0 ? -INFINITY : convert<float>(logits[likeliest]);
  int64_t token = likeliest;
  if (unfit || !(top >= -FLT_MAX)) {
    token = -1;
  } else if (p.temperature > 0) {
    for (int i = threadIdx.x; i < p.V; i += kThreads) {
      const double distance = static_cast<double>(convert<float>(logits[i])) - static_cast<double>(top);
      masses[i] = drawable(i) ? static_cast<float>(exp(distance / p.temperature)) : -1.0f;
    }
    __syncthreads();
    const Row row{masses, p.V};
    // All that have a mass; then the top_k; then those that hold top_p of it.
    Kept kept{-0.5f, 0, row.above<false>(-0.5f)};
    const auto keep = [&](float least, int ties, Mass above) {
      kept = {least, ties, above + static_cast<Mass>(ties) * whole(least)};
    };
    if (p.top_k > 0 && p.top_k < p.V && static_cast<Mass>(p.top_k) < row.above<true>(-0.5f)) {
      const float least = row.passing<true>(p.top_k - 1);
      keep(least, p.top_k - static_cast<int>(row.above<true>(least)), row.above<false>(least));
    }
    if (p.top_p < 1) {
      const auto wanted = max(static_cast<Mass>(ceil(p.top_p * static_cast<double>(kept.mass))), Mass{1});
      const float least = row.passing<false>(wanted - 1);
      const Mass above = row.above<false>(least), each = max(whole(least), Mass{1});
      int ties = static_cast<int>((wanted - above + each - 1) / each);
      if (least == kept.least) ties = min(ties, kept.ties);
      keep(least, min(ties, row.number_of(least)), above);
    }
    const Mass point = min(static_cast<Mass>(p.draws[blockIdx.x] * static_cast<double>(kept.mass)), kept.mass - 1);
    const float mass = row.passing<false>(point);
    const Mass each = max(whole(mass), Mass{1});
    token = row.token(mass, static_cast<int>((point - row.above<false>(mass)) / each));
  }
  if (threadIdx.x == 0) p.tokens_out[blockIdx.x] = token;
}

}  // namespace

void launch_sample_token(const SampleTokenParams& p, cudaStream_t stream) {
  if (p.B == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, double>) {
      const size_t bytes = p.temperature > 0 ? sizeof(float) * p.V : 0;
      if (bytes > 48 * 1024)
        cudaFuncSetAttribute(sample_token_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes));
      sample_token_kernel<T><<<static_cast<unsigned>(p.B), kThreads, bytes, stream>>>(p);
    }
  });
}

}  // namespace memformer::ops
