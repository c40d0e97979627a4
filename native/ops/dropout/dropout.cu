#include <algorithm>

#include "core/cuda/numeric.cuh"
#include "ops/dropout/dropout.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 132 * 8;  // what an H100 holds at once: more take turns

/// Threads take packs of `wide` numbers, a multiple of the four of a Philox counter, or numbers one by one.
template <typename scalar_t, int wide>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const DropoutParams p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int group = wide < 4 ? 1 : 4;
  const bool drops = p.mask.seed != nullptr;
  DropoutShare share;
  const int64_t stride = int64_t{gridDim.x} * kThreads * wide;
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * wide; first < p.count; first += stride) {
    acc_t x[wide];
    load(static_cast<const scalar_t*>(p.x) + first, x);
    if (drops) {
#pragma unroll
      for (int i = 0; i < wide; i += group) {
        auto& few = reinterpret_cast<acc_t(&)[group]>(x[i]);
        drop(p.mask, share, first + i, few);
      }
    }
    store(x, static_cast<scalar_t*>(p.y) + first);
  }
}

}  // namespace

void launch_dropout(const DropoutParams& p, cudaStream_t stream) {
  if (p.count == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    constexpr int wide = sizeof(scalar_t) == 2 ? 8 : 4;
    const bool packed = p.mask.in_fours() && fits_packs<wide>(static_cast<const scalar_t*>(p.x), p.count) &&
                        fits_packs<wide>(static_cast<const scalar_t*>(p.y), p.count);
    const int64_t each = int64_t{kThreads} * (packed ? wide : 1),
                  blocks = std::min((p.count + each - 1) / each, kMostBlocks);
    if (packed)
      dropout_kernel<scalar_t, wide><<<blocks, kThreads, 0, stream>>>(p);
    else
      dropout_kernel<scalar_t, 1><<<blocks, kThreads, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
