// How add_norm's kernels divide rows, and how one is chosen. Where a row is a multiple of four numbers and not too
// wide, lanes hold packs of it in registers and each input is read once. Other rows take the kernels "of any width",
// one element per lane at a time.
#pragma once
#include <type_traits>

#include "core/cuda/numeric.cuh"

namespace memformer::ops {

constexpr int kPack = 4;                            // neighbours a lane reads at once: those of one Philox counter
constexpr int64_t kWarpPack = cuda::kWarp * kPack;  // and a warp
constexpr int kRowsPerBlock = 4;                    // where there are many rows
constexpr int64_t kMultiprocessors = 132;           // of an H100; elsewhere a block more or less costs little

/// Packs a lane of the forward pass, a warp a row, holds of a row; 0 where that is too much.
inline int packs_of(int64_t D, cuda::Dtype dtype) {
  const int most = dtype == cuda::Dtype::f64 ? 4 : 8;
  for (int packs = 1; packs <= most; packs *= 2)
    if (D <= packs * kWarpPack) return packs;
  return 0;
}

template <typename Body>
void for_packs(int packs, Body&& body) {
  switch (packs) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 4:
      return body(std::integral_constant<int, 4>());
    default:
      return body(std::integral_constant<int, 8>());
  }
}

/// Calls `body` with the types of x, branch and normed; see the contract for those that go together.
template <typename Body>
void for_dtypes(cuda::Dtype x, cuda::Dtype branch, cuda::Dtype out, Body&& body) {
  cuda::for_dtype(x, [&](auto x_type) {
    using scalar_t = typename decltype(x_type)::type;
    if constexpr (std::is_same_v<scalar_t, float>) {
      cuda::for_dtype(branch, [&](auto branch_type) {
        cuda::for_dtype(out, [&](auto out_type) {
          using branch_t = typename decltype(branch_type)::type;
          using out_t = typename decltype(out_type)::type;
          constexpr bool narrow = sizeof(branch_t) < 8 && sizeof(out_t) < 8;
          constexpr bool mixed = sizeof(branch_t) == sizeof(out_t) && !std::is_same_v<branch_t, out_t>;
          if constexpr (narrow && !mixed) body(x_type, branch_type, out_type);
        });
      });
    } else {
      body(x_type, x_type, x_type);
    }
  });
}

/// Whether `packs` of acc_t fit into a lane's registers: the others are not compiled.
template <typename acc_t, int packs>
constexpr bool kCompiled = packs * sizeof(acc_t) <= 32;

}  // namespace memformer::ops
