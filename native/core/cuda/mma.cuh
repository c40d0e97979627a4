// Tensor cores by the warp: products of 16 x 16 with 16 x 8 numbers of two bytes, summed in float, and the loads that
// bring tiles of shared memory into the order in which lanes hold them (PTX ISA, mma.m16n8k16 and ldmatrix).
//   lane = 4 g + t      C: c0 c1 = (g, 2t) (g, 2t + 1), c2 c3 eight rows below      A: a0 a1 = rows g, g + 8 of columns
//   2t, a2 a3 of 2t + 8
#pragma once
#include "core/cuda/numeric.cuh"

namespace memformer::cuda {

/// The warp's number, known to be the same in all its lanes.
__device__ __forceinline__ int warp_of_block() {
  return __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
}

/// c += a b.
template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Two numbers in one register, the first in its lower half.
template <typename T>
__device__ __forceinline__ uint32_t pair(float first, float second) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
  } else {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
  }
}

template <typename T>
__device__ __forceinline__ float2 unpair(uint32_t both) {
  if constexpr (std::is_same_v<T, __half>)
    return __half22float2(*reinterpret_cast<const __half2*>(&both));
  else
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}

/// Asks for 16 bytes of memory, of which the first `bytes` exist, the others are zero. Both ends are multiples of 16
/// bytes.
__device__ __forceinline__ void copy_16_bytes(void* to_shared, const void* from, int bytes) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

/// The same of 4 bytes: all or nothing of them exists.
__device__ __forceinline__ void copy_4_bytes(void* to_shared, const void* from, int bytes) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

/// What this thread has asked for is there, for itself.
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Four 8 x 8 tiles of shared memory; lane l gives the address of row l % 8 of tile l / 8.
__device__ __forceinline__ void load_tiles(uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// As load_tiles, each tile transposed.
__device__ __forceinline__ void load_tiles_transposed(uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// A matrix of T in shared memory, rows of `stride` numbers: eight rows of 16 bytes lie in different banks if stride /
/// 8 is odd.
template <typename T, int stride>
struct SharedMatrix {
  T* data;

  __device__ __forceinline__ T* at(int row, int column) const { return data + row * stride + column; }

  /// A's 16 x 16 from (row, column).
  __device__ __forceinline__ void load_a(uint32_t (&a)[4], int row, int column) const {
    const int lane = threadIdx.x % kWarp;
    load_tiles(a, at(row + lane % 16, column + lane / 16 * 8));
  }
  /// A's 16 x 16 of the transpose: its rows are columns from `column`, its columns rows from `row`.
  __device__ __forceinline__ void load_a_transposed(uint32_t (&a)[4], int row, int column) const {
    const int lane = threadIdx.x % kWarp;
    load_tiles_transposed(a, at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
  }
  /// Two B of 16 x 8 whose columns are rows from `row`: (b[0], b[1]) of the first eight, (b[2], b[3]) of the next.
  __device__ __forceinline__ void load_b_transposed(uint32_t (&b)[4], int row, int column) const {
    const int lane = threadIdx.x % kWarp;
    load_tiles(b, at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
  }
  /// Two B of 16 x 8 side by side from (row, column).
  __device__ __forceinline__ void load_b(uint32_t (&b)[4], int row, int column) const {
    const int lane = threadIdx.x % kWarp;
    load_tiles_transposed(b, at(row + lane % 16, column + lane / 16 * 8));
  }
};

}  // namespace memformer::cuda
