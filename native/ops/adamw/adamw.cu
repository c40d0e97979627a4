#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/adamw/adamw.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 132 * 4;  // an H100 holds these at once: no last wave that is half empty

/// What is the same for all numbers.
template <typename acc_t>
struct Step {
  acc_t gradient_scale, rate, step_size, correction2_root, kept;  // kept: of a parameter that decays
};

template <typename acc_t>
__device__ Step<acc_t> step_of(const AdamwParams& p, acc_t norm) {
  const double t = static_cast<double>(*p.step) + 1.0, rate = *p.rate;  // in double: 1 - beta^t loses digits
  double scale = p.clip > 0 ? min(1.0, p.clip / (static_cast<double>(norm) + 1e-6)) : 1.0;
  if (p.grad_scale != nullptr) scale /= static_cast<double>(*static_cast<const acc_t*>(p.grad_scale));
  return {static_cast<acc_t>(scale), static_cast<acc_t>(rate), static_cast<acc_t>(rate / (1.0 - pow(p.beta1, t))),
          static_cast<acc_t>(sqrt(1.0 - pow(p.beta2, t))), static_cast<acc_t>(1.0 - rate * p.weight_decay)};
}

template <typename acc_t, typename working_t, int wide>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const AdamwParams p) {
  __shared__ Step<acc_t> shared;
  const acc_t norm = *static_cast<const acc_t*>(p.norm);
  const bool finite = isfinite(norm);
  if (threadIdx.x == 0 && finite) shared = step_of(p, norm);
  __syncthreads();
  const Step<acc_t> step = shared;
  const acc_t beta1 = static_cast<acc_t>(p.beta1), beta2 = static_cast<acc_t>(p.beta2), eps = static_cast<acc_t>(p.eps);
  const acc_t rest1 = static_cast<acc_t>(1.0 - p.beta1), rest2 = static_cast<acc_t>(1.0 - p.beta2);
  const acc_t zero[wide] = {};
  const int64_t stride = int64_t{gridDim.x} * kThreads * wide;
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * wide; first < p.n; first += stride) {
    auto* gradients = static_cast<acc_t*>(p.gradients) + first;
    if (!finite) {
      store(zero, gradients);
      continue;
    }
    auto* parameters = static_cast<acc_t*>(p.parameters) + first;
    auto* exp_avg = static_cast<acc_t*>(p.exp_avg) + first;
    auto* exp_avg_sq = static_cast<acc_t*>(p.exp_avg_sq) + first;
    acc_t x[wide], g[wide], m[wide], v[wide];
    load(gradients, g);
    load(exp_avg_sq, v);
    load(exp_avg, m);
    load(parameters, x);
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      if (g[i] == acc_t(0) && v[i] == acc_t(0)) continue;  // no gradient ever came
      const acc_t gradient = g[i] * step.gradient_scale;
      if (first + i < p.decayed) x[i] *= step.kept;
      m[i] = beta1 * m[i] + rest1 * gradient;
      v[i] = beta2 * v[i] + rest2 * gradient * gradient;
      x[i] -= step.step_size * m[i] / (sqrt(v[i]) / step.correction2_root + eps);
    }
    store(x, parameters);
    store(m, exp_avg);
    store(v, exp_avg_sq);
    store(zero, gradients);
    if (p.working != nullptr) store(x, static_cast<working_t*>(p.working) + first);
  }
}

/// Apart from the kernel above, whose every block reads the number.
template <typename acc_t>
__global__ void count_step_kernel(float* step, const acc_t* norm) {
  if (isfinite(*norm)) *step += 1.0f;
}

template <typename acc_t, int wide>
__global__ void __launch_bounds__(kThreads) square_sum_kernel(const acc_t* gradients, double* partials, int64_t n) {
  acc_t sum[wide] = {};
  const int64_t stride = int64_t{gridDim.x} * kThreads * wide;
#pragma unroll 4
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * wide; first < n; first += stride) {
    acc_t g[wide];
    load(gradients + first, g);
#pragma unroll
    for (int i = 0; i < wide; ++i) sum[i] += g[i] * g[i];
  }
  double total = 0;
#pragma unroll
  for (int i = 0; i < wide; ++i) total += static_cast<double>(sum[i]);
  total = block_sum<kThreads>(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

template <typename acc_t>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const double* partials, int64_t count, const acc_t* grad_scale, acc_t* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0)
    *norm = static_cast<acc_t>(sqrt(sum) / (grad_scale != nullptr ? static_cast<double>(*grad_scale) : 1.0));
}

template <typename Body>
void for_wide(Dtype dtype, Body&& body) {
  if (dtype == Dtype::f64)
    body(Type<double>());
  else
    body(Type<float>());
}

}  // namespace

void launch_adamw(const AdamwParams& p, cudaStream_t stream) {
  for_wide(p.dtype, [&](auto type) {
    using acc_t = typename decltype(type)::type;
    const auto* norm = static_cast<const acc_t*>(p.norm);
    for_dtype(p.working_dtype, [&](auto working_type) {
      using working_t = typename decltype(working_type)::type;
      if (p.n == 0) return;
      const auto fits = [&](const void* pointer) { return fits_packs<4>(static_cast<const acc_t*>(pointer), p.n); };
      const bool packed = fits(p.parameters) && fits(p.gradients) && fits(p.exp_avg) && fits(p.exp_avg_sq) &&
                          fits_packs<4>(static_cast<const working_t*>(p.working), p.n);
      const int64_t each = int64_t{kThreads} * (packed ? 4 : 1),
                    blocks = std::min((p.n + each - 1) / each, kMostBlocks);
      if (packed)
        adamw_kernel<acc_t, working_t, 4><<<blocks, kThreads, 0, stream>>>(p);
      else
        adamw_kernel<acc_t, working_t, 1><<<blocks, kThreads, 0, stream>>>(p);
    });
    count_step_kernel<<<1, 1, 0, stream>>>(p.step, norm);
  });
}

int64_t gradient_norm_partials(int64_t n) { return std::min((n + 4 * kThreads - 1) / (4 * kThreads), kMostBlocks); }

void launch_gradient_norm(const void* gradients, const void* grad_scale, double* partials, void* norm, int64_t n,
                          Dtype dtype, cudaStream_t stream) {
  const int64_t blocks = gradient_norm_partials(n);
  for_wide(dtype, [&](auto type) {
    using acc_t = typename decltype(type)::type;
    const auto* g = static_cast<const acc_t*>(gradients);
    if (n > 0) {
      if (fits_packs<4>(g, n))
        square_sum_kernel<acc_t, 4><<<blocks, kThreads, 0, stream>>>(g, partials, n);
      else
        square_sum_kernel<acc_t, 1><<<blocks, kThreads, 0, stream>>>(g, partials, n);
    }
    norm_kernel<<<1, kThreads, 0, stream>>>(partials, blocks, static_cast<const acc_t*>(grad_scale),
                                            static_cast<acc_t*>(norm));
  });
}

}  // namespace memformer::ops
