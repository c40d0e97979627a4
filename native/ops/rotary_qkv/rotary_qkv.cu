#include <algorithm>

#include "core/cuda/column_sums.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/rotary_qkv/rotary_qkv.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int64_t kMostThreads = 132 * 2048;  // what an H100 holds at once: more take turns

/// A thread takes `wide` numbers of a head's first half, and those they are paired with in the second, of every token
/// of a share.
template <typename scalar_t, int wide>
__global__ void __launch_bounds__(kThreads) rotary_qkv_kernel(const RotaryQkvParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int packs = p.half / wide, item = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t share = int64_t{blockIdx.y} * blockDim.y + threadIdx.y;
  if (item >= 3 * p.H * packs || share >= p.shares) return;
  const int head = item / packs, e = (item % packs) * wide, part = head / p.H, h = head % p.H;
  const RotaryHeads from = part == 0 ? p.q : part == 1 ? p.k : p.v;
  const auto* data = static_cast<const scalar_t*>(from.data) + h * from.h + e;
  const int64_t width = int64_t{6} * p.H * p.half, column = int64_t{2} * head * p.half + e;
  acc_t bias1[wide] = {}, bias2[wide] = {}, sum1[wide] = {}, sum2[wide] = {};
  if (p.bias != nullptr) {
    load(static_cast<const scalar_t*>(p.bias) + column, bias1);
    load(static_cast<const scalar_t*>(p.bias) + column + p.half, bias2);
  }
  for (int64_t token = share; token < p.B * p.T; token += p.shares) {
    const int64_t b = quotient(token, p.T), t = token - b * p.T;
    const auto* x = data + b * from.b + t * from.t;
    acc_t x1[wide], x2[wide];
    load(x, x1);
    load(x + p.half, x2);
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      x1[i] += bias1[i];
      x2[i] += bias2[i];
    }
    if (part < 2) {
      acc_t cos[wide], sin[wide];
      load(static_cast<const acc_t*>(p.cos) + t * p.half + e, cos);
      load(static_cast<const acc_t*>(p.sin) + t * p.half + e, sin);
#pragma unroll
      for (int i = 0; i < wide; ++i) {
        const acc_t s = p.opposite ? -sin[i] : sin[i], first = x1[i];
        x1[i] = first * cos[i] - x2[i] * s;
        x2[i] = x2[i] * cos[i] + first * s;
      }
    }
    auto* y = static_cast<scalar_t*>(p.packed) + token * width + column;
    store(x1, y);
    store(x2, y + p.half);
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      sum1[i] += x1[i];
      sum2[i] += x2[i];
    }
  }
  if (p.partials == nullptr) return;
  auto* partial = static_cast<acc_t*>(p.partials) + share * width + column;
  store(sum1, partial);
  store(sum2, partial + p.half);
}

template <typename scalar_t, int wide>
void launch(const RotaryQkvParams& p, cudaStream_t stream) {
  const int64_t items = int64_t{3} * p.H * (p.half / wide);
  const int across = static_cast<int>(std::min<int64_t>(kThreads, ceil_div(items, kWarp) * kWarp)),
            down = kThreads / across;
  const dim3 block(across, down), grid(ceil_div(items, across), ceil_div(p.shares, down));
  rotary_qkv_kernel<scalar_t, wide><<<grid, block, 0, stream>>>(p);
}

}  // namespace

int64_t rotary_qkv_shares(int64_t tokens, int64_t width, bool summed, Dtype dtype) {
  int64_t threads = 1;  // of a token
  for_dtype(dtype, [&](auto type) {
    constexpr int64_t wide = 16 / sizeof(typename decltype(type)::type);
    threads = ceil_div(ceil_div(width, 2 * wide), kWarp) * kWarp;
  });
  return summed ? row_shares(tokens, threads) : std::min(tokens, ceil_div(kMostThreads, threads));
}

void launch_rotary_qkv(const RotaryQkvParams& p, cudaStream_t stream) {
  if (p.B * p.T * p.H * p.half == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using acc_t = accumulate_t<scalar_t>;
    constexpr int wide = 16 / sizeof(scalar_t);
    const auto fits = [&](const RotaryHeads& heads) {
      return fits_packs<wide>(static_cast<const scalar_t*>(heads.data), p.half) && heads.b % wide == 0 &&
             heads.h % wide == 0 && heads.t % wide == 0;
    };
    const bool packed = fits(p.q) && fits(p.k) && fits(p.v) &&
                        fits_packs<wide>(static_cast<const scalar_t*>(p.packed), p.half) &&
                        fits_packs<wide>(static_cast<const scalar_t*>(p.bias), p.half) &&
                        fits_packs<wide>(static_cast<const acc_t*>(p.cos), p.half) &&
                        fits_packs<wide>(static_cast<const acc_t*>(p.sin), p.half);
    if (packed)
      launch<scalar_t, wide>(p, stream);
    else
      launch<scalar_t, 1>(p, stream);
  });
}

}  // namespace memformer::ops
