// A pass over the numbers each: blocks along x share a matrix, y is the matrix.
#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/muon/muon.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256, kWide = 4;
constexpr int64_t kTurns = 4;  // packs of a thread: fewer blocks begin, and their loads overlap

__device__ __forceinline__ bool inside(int64_t at, int64_t size, int64_t numbers) {
  return at >= 0 && at <= numbers - size;
}

/// body(std::integral_constant<int, wide>(), first) of the block's part of a matrix; `packed`: kWide at a time.
template <typename Body>
__device__ __forceinline__ void for_numbers(int64_t size, bool packed, Body&& body) {
  const auto pass = [&](auto wide) {
    const int64_t stride = int64_t{gridDim.x} * kThreads * wide.value;
    for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * wide.value; i < size; i += stride) body(wide, i);
  };
  if (packed)
    pass(std::integral_constant<int, kWide>());
  else
    pass(std::integral_constant<int, 1>());
}

template <typename acc_t>
__device__ acc_t gradient_scale(const MuonMomentumParams& p, acc_t norm) {
  double scale = p.clip > 0 ? min(1.0, p.clip / (static_cast<double>(norm) + 1e-6)) : 1.0;
  if (p.grad_scale != nullptr) scale /= static_cast<double>(*static_cast<const acc_t*>(p.grad_scale));
  return static_cast<acc_t>(scale);
}

template <typename acc_t, typename u_t>
__global__ void __launch_bounds__(kThreads) muon_momentum_kernel(const MuonMomentumParams p) {
  const int64_t matrix = blockIdx.y, at = p.places[2 * matrix], momenta_at = p.places[2 * matrix + 1];
  auto* u = static_cast<u_t*>(p.u) + matrix * p.size;
  const bool here = inside(at, p.size, p.N) && inside(momenta_at, p.size, p.M);
  const acc_t norm = *static_cast<const acc_t*>(p.norm);
  const bool finite = isfinite(norm);
  const acc_t scale = finite ? gradient_scale(p, norm) : acc_t(0);
  const acc_t kept = static_cast<acc_t>(p.beta), rest = static_cast<acc_t>(1.0 - p.beta);
  auto* gradients = static_cast<acc_t*>(p.gradients) + (here ? at : 0);
  auto* momenta = static_cast<acc_t*>(p.momenta) + (here ? momenta_at : 0);
  const bool packed = p.size % kWide == 0 && at % kWide == 0 && momenta_at % kWide == 0;
  for_numbers(p.size, packed, [&](auto wide, int64_t i) {
    const acc_t zero[wide.value] = {};
    if (!here || !finite) {
      if (here) store(zero, gradients + i);
      return store(zero, u + i);
    }
    acc_t g[wide.value], m[wide.value];
    load(gradients + i, g);
    load(momenta + i, m);
#pragma unroll
    for (int k = 0; k < wide.value; ++k) {
      g[k] *= scale;
      m[k] = kept * m[k] + rest * g[k];
      g[k] = kept * m[k] + rest * g[k];
    }
    store(m, momenta + i);
    store(g, u + i);
    store(zero, gradients + i);
  });
}

template <typename acc_t, typename direction_t>
__global__ void __launch_bounds__(kThreads) muon_step_kernel(const MuonStepParams p) {
  const int64_t matrix = blockIdx.y, at = p.places[2 * matrix];
  if (!(static_cast<const acc_t*>(p.norms)[matrix] > acc_t(0)) || !inside(at, p.size, p.N)) return;
  auto* values = static_cast<acc_t*>(p.values) + at;
  const auto* directions = static_cast<const direction_t*>(p.directions) + matrix * p.size;
  const acc_t kept = static_cast<acc_t>(p.kept), by = static_cast<acc_t>(p.by);
  for_numbers(p.size, p.size % kWide == 0 && at % kWide == 0, [&](auto wide, int64_t i) {
    acc_t w[wide.value], direction[wide.value];
    load(values + i, w);
    load(directions + i, direction);
#pragma unroll
    for (int k = 0; k < wide.value; ++k) w[k] = kept * w[k] - by * direction[k];
    store(w, values + i);
  });
}

dim3 grid_of(int64_t n, int64_t size) {
  return {static_cast<unsigned>(ceil_div(size, kThreads * kWide * kTurns)), static_cast<unsigned>(n)};
}

/// Calls body(Type<acc_t>(), Type<narrow_t>()).
template <typename Body>
void for_dtypes(Dtype dtype, Dtype narrow, Body&& body) {
  for_dtype(narrow, [&](auto narrow_type) {
    if (dtype == Dtype::f64)
      body(Type<double>(), narrow_type);
    else
      body(Type<float>(), narrow_type);
  });
}

}  // namespace

void launch_muon_momentum(const MuonMomentumParams& p, cudaStream_t stream) {
  if (p.n == 0) return;
  for_dtypes(p.dtype, p.u_dtype, [&](auto type, auto u_type) {
    muon_momentum_kernel<typename decltype(type)::type, typename decltype(u_type)::type>
        <<<grid_of(p.n, p.size), kThreads, 0, stream>>>(p);
  });
}

void launch_muon_step(const MuonStepParams& p, cudaStream_t stream) {
  if (p.n == 0) return;
  for_dtypes(p.dtype, p.direction_dtype, [&](auto type, auto direction_type) {
    muon_step_kernel<typename decltype(type)::type, typename decltype(direction_type)::type>
        <<<grid_of(p.n, p.size), kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
