// Dropout inside the kernel of another operator: its parameters, and its work on four neighbouring numbers.
// Letters: G seeds.
#pragma once
#include "core/philox.h"
#ifdef __CUDACC__
#include "core/cuda/numeric.cuh"
#endif

namespace memformer::ops {

struct DropoutMask {
  const int64_t* seed = nullptr;  ///< (G) on the device; null: everything is kept
  uint64_t share = 0;             ///< elements of a seed; 0: there is one seed for all
  uint64_t site = 0;
  uint32_t threshold = 0;  ///< p 2^32
  double scale = 1.0;      ///< 1 / (1 - p)

  /// Whether the four words of a counter belong to neighbours that begin at a multiple of four.
  bool in_fours() const { return share % 4 == 0; }
};

/// Of `count` elements with `seeds` seeds.
inline DropoutMask dropout_mask(double p, const int64_t* seed, int64_t seeds, int64_t count, int64_t site) {
  if (p == 0.0) return {};
  const auto share = seeds > 1 ? static_cast<uint64_t>(count / seeds) : 0;
  return {seed, share, static_cast<uint64_t>(site), static_cast<uint32_t>(p * 4294967296.0), 1.0 / (1.0 - p)};
}

#ifdef __CUDACC__

/// The share a thread is in: its seed is read, and the division done, only where another share is entered.
class DropoutShare {
 public:
  __device__ __forceinline__ void enter(const DropoutMask& mask, uint64_t index) {
    if (index - first_ < size_) return;
    const uint64_t group = mask.share == 0 ? 0 : cuda::quotient(index, mask.share);
    seed_ = static_cast<uint64_t>(mask.seed[group]);
    first_ = group * mask.share;
    size_ = mask.share == 0 ? ~uint64_t{0} : mask.share;
  }

  __device__ __forceinline__ uint64_t seed() const { return seed_; }
  __device__ __forceinline__ uint64_t within(uint64_t index) const { return index - first_; }

 private:
  uint64_t seed_ = 0, first_ = 0, size_ = 0;
};

/// Elements `index` ... `index` + 3 of the tensor, for a multiple of four, in a mask in_fours().
template <typename acc_t>
__device__ __forceinline__ void drop(const DropoutMask& mask, DropoutShare& share, uint64_t index, acc_t (&value)[4]) {
  share.enter(mask, index);
  const PhiloxWords words = philox(share.seed(), share.within(index) / 4, mask.site);
  const auto scale = static_cast<acc_t>(mask.scale);
#pragma unroll
  for (int i = 0; i < 4; ++i) value[i] = words.word[i] >= mask.threshold ? value[i] * scale : acc_t(0);
}

/// Element `index` alone.
template <typename acc_t>
__device__ __forceinline__ void drop(const DropoutMask& mask, DropoutShare& share, uint64_t index, acc_t (&value)[1]) {
  share.enter(mask, index);
  const uint64_t within = share.within(index);
  const PhiloxWords words = philox(share.seed(), within / 4, mask.site);
  uint32_t word = words.word[0];
#pragma unroll
  for (int i = 1; i < 4; ++i)
    if (within % 4 == i) word = words.word[i];
  value[0] = word >= mask.threshold ? value[0] * static_cast<acc_t>(mask.scale) : acc_t(0);
}

#endif

}  // namespace memformer::ops
