// A warp takes a row: lane l holds its numbers 4 (32 k + l) ... + 3, k < packs, in registers, and reads each input
// once. Rows that are wider, or no multiple of four, go through the same steps a number a lane at a time, and read x
// again for each.
#include <algorithm>
#include <type_traits>

#include "core/cuda/numeric.cuh"
#include "ops/layer_norm_no_affine/layer_norm_no_affine.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kPack = 4;
constexpr int kRows = 4;  // of a block

/// The row's numbers that a lane takes, in packs: body(d, k) for each pack that exists.
template <int packs, typename Body>
__device__ __forceinline__ void for_packs_of_row(int64_t D, Body&& body) {
#pragma unroll
  for (int k = 0; k < packs; ++k)
    if (const int64_t d = (k * kWarp + threadIdx.x) * kPack; d < D) body(d, k);
}

template <typename acc_t, typename z_t, int packs>
__global__ void __launch_bounds__(kRows* kWarp) layer_norm_no_affine_forward_kernel(const LayerNormNoAffineParams p) {
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* from = static_cast<const acc_t*>(p.x) + row * D;
  auto* to = static_cast<z_t*>(p.z) + row * D;
  acc_t sum = 0, square = 0, mean, rstd;
  if constexpr (packs > 0) {
    acc_t x[packs][kPack] = {};
    for_packs_of_row<packs>(D, [&](int64_t d, int k) { load(from + d, x[k]); });
#pragma unroll
    for (int k = 0; k < packs; ++k)
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += x[k][i];  // what lies beyond D is 0
    mean = warp_sum(sum) / D;
    for_packs_of_row<packs>(D, [&](int64_t, int k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) square += (x[k][i] - mean) * (x[k][i] - mean);
    });
    rstd = acc_t(1) / sqrt(warp_sum(square) / D + static_cast<acc_t>(p.eps));
    for_packs_of_row<packs>(D, [&](int64_t d, int k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[k][i] = (x[k][i] - mean) * rstd;
      store(x[k], to + d);
    });
  } else {
    for (int64_t d = threadIdx.x; d < D; d += kWarp) sum += from[d];
    mean = warp_sum(sum) / D;
    for (int64_t d = threadIdx.x; d < D; d += kWarp) square += (from[d] - mean) * (from[d] - mean);
    rstd = acc_t(1) / sqrt(warp_sum(square) / D + static_cast<acc_t>(p.eps));
    for (int64_t d = threadIdx.x; d < D; d += kWarp) to[d] = convert<z_t>((from[d] - mean) * rstd);
  }
  if (threadIdx.x != 0) return;
  static_cast<acc_t*>(p.mean)[row] = mean;
  static_cast<acc_t*>(p.rstd)[row] = rstd;
}

template <typename acc_t, typename z_t, int packs>
__global__ void __launch_bounds__(kRows* kWarp)
    layer_norm_no_affine_backward_kernel(const LayerNormNoAffineBackwardParams q) {
  const LayerNormNoAffineParams& p = q.forward;
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.y, D = p.D;
  if (row >= p.N) return;
  const auto* from = static_cast<const acc_t*>(p.x) + row * D;
  const auto* passed = q.grad_x == nullptr ? nullptr : static_cast<const acc_t*>(q.grad_x) + row * D;
  auto* to = static_cast<acc_t*>(q.sent) + row * D;
  const acc_t mean = static_cast<const acc_t*>(p.mean)[row], rstd = static_cast<const acc_t*>(p.rstd)[row];
  acc_t sum = 0, dot = 0;
  if constexpr (packs > 0) {
    acc_t z[packs][kPack] = {}, h[packs][kPack] = {}, g[packs][kPack] = {};
    for_packs_of_row<packs>(D, [&](int64_t d, int k) {
      load(from + d, z[k]);
      if (passed != nullptr) load(passed + d, g[k]);
#pragma unroll
      for (int reader = 0; reader < kStandardizeReaders; ++reader) {
        if (reader >= q.readers) break;
        acc_t of_reader[kPack];
        load(static_cast<const z_t*>(q.grads[reader]) + row * D + d, of_reader);
#pragma unroll
        for (int i = 0; i < kPack; ++i) h[k][i] += of_reader[i];
      }
    });
    for_packs_of_row<packs>(D, [&](int64_t, int k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        z[k][i] = (z[k][i] - mean) * rstd;
        sum += h[k][i];
        dot += h[k][i] * z[k][i];
      }
    });
    const acc_t of_h = warp_sum(sum) / D, of_hz = warp_sum(dot) / D;
    for_packs_of_row<packs>(D, [&](int64_t d, int k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) g[k][i] += rstd * (h[k][i] - of_h - z[k][i] * of_hz);
      store(g[k], to + d);
    });
  } else {
    const auto h = [&](int64_t d) {
      acc_t total = 0;
      for (int reader = 0; reader < q.readers; ++reader)
        total += convert<acc_t>(static_cast<const z_t*>(q.grads[reader])[row * D + d]);
      return total;
    };
    const auto z = [&](int64_t d) { return (from[d] - mean) * rstd; };
    for (int64_t d = threadIdx.x; d < D; d += kWarp) {
      sum += h(d);
      dot += h(d) * z(d);
    }
    const acc_t of_h = warp_sum(sum) / D, of_hz = warp_sum(dot) / D;
    for (int64_t d = threadIdx.x; d < D; d += kWarp)
      to[d] = (passed == nullptr ? acc_t(0) : passed[d]) + rstd * (h(d) - of_h - z(d) * of_hz);
  }
}

/// Calls body(Type<acc_t>(), Type<z_t>(), packs) with the packs a lane holds of a row: 0 where that is too much, or not
/// `whole`.
template <typename Body>
void for_row(const LayerNormNoAffineParams& p, bool whole, Body&& body) {
  for_dtype(p.dtype, [&](auto z_type) {
    const auto run = [&](auto x_type) {
      constexpr int64_t each = kWarp * kPack;
      if (whole && p.D <= each) return body(x_type, z_type, std::integral_constant<int, 1>());
      if (whole && p.D <= 4 * each) return body(x_type, z_type, std::integral_constant<int, 4>());
      if constexpr (sizeof(typename decltype(x_type)::type) == 4)
        if (whole && p.D <= 8 * each) return body(x_type, z_type, std::integral_constant<int, 8>());
      body(x_type, z_type, std::integral_constant<int, 0>());
    };
    if constexpr (std::is_same_v<typename decltype(z_type)::type, double>)
      run(Type<double>());
    else if (p.x_dtype == Dtype::f32)
      run(Type<float>());
  });
}

/// Whether all rows may be read four numbers at a time: wide of x's dtype, narrow of z's.
bool are_whole(const LayerNormNoAffineParams& p, std::initializer_list<const void*> wide, const void* const* narrow,
               int count) {
  bool whole = true;
  for_dtype(p.x_dtype, [&](auto type) {
    for (const auto* pointer : wide)
      whole = whole && fits_packs<kPack>(static_cast<const typename decltype(type)::type*>(pointer), p.D);
  });
  for_dtype(p.dtype, [&](auto type) {
    for (int i = 0; i < count; ++i)
      whole = whole && fits_packs<kPack>(static_cast<const typename decltype(type)::type*>(narrow[i]), p.D);
  });
  return whole;
}

unsigned blocks_of(const LayerNormNoAffineParams& p) { return static_cast<unsigned>(ceil_div(p.N, kRows)); }

}  // namespace

void launch_layer_norm_no_affine_forward(const LayerNormNoAffineParams& p, cudaStream_t stream) {
  const void* z = p.z;
  for_row(p, are_whole(p, {p.x}, &z, 1), [&](auto x_type, auto z_type, auto packs) {
    layer_norm_no_affine_forward_kernel<typename decltype(x_type)::type, typename decltype(z_type)::type, packs.value>
        <<<blocks_of(p), dim3(kWarp, kRows), 0, stream>>>(p);
  });
}

void launch_layer_norm_no_affine_backward(const LayerNormNoAffineBackwardParams& q, cudaStream_t stream) {
  const LayerNormNoAffineParams& p = q.forward;
  for_row(p, are_whole(p, {p.x, q.grad_x, q.sent}, q.grads, q.readers), [&](auto x_type, auto z_type, auto packs) {
    layer_norm_no_affine_backward_kernel<typename decltype(x_type)::type, typename decltype(z_type)::type, packs.value>
        <<<blocks_of(p), dim3(kWarp, kRows), 0, stream>>>(q);
  });
}

}  // namespace memformer::ops
