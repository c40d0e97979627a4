// Hopper's tensor cores by the warp group (PTX ISA, wgmma): products of 64 x 16 with 16 x 128 numbers of two bytes in
// shared memory, summed in float in the registers of four warps. Device code of sm_90a alone.
//   warp w of the group, lane 4 g + t:  c[4j] c[4j + 1] = (16 w + g, 8 j + 2 t) and its right neighbour, c[4j + 2] c[4j
//   + 3] eight rows below
// Operands lie as copies with a swizzle of 128 bytes leave them: rows of 64 numbers, eight rows a kilobyte, aligned to
// one.
#pragma once
#include "core/cuda/hopper.cuh"

namespace memformer::cuda {

/// Rows are the operand's own (of A, of B^T), columns what is summed over.
__device__ __forceinline__ uint64_t rows_operand(const void* first) {
  constexpr uint64_t kSwizzled = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32, kUnused = uint64_t{1} << 16;
  return shared_address(first) / 16 | kUnused | kEightRows | kSwizzled;
}

/// Rows are what is summed over, columns the operand's own (of B); 64 columns further on it goes on `apart` bytes
/// further on.
__device__ __forceinline__ uint64_t columns_operand(const void* first, int apart) {
  constexpr uint64_t kSwizzled = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32;
  return shared_address(first) / 16 | static_cast<uint64_t>(apart / 16) << 16 | kEightRows | kSwizzled;
}

/// The operand `bytes` further on.
__device__ __forceinline__ uint64_t operand_at(uint64_t operand, int bytes) { return operand + bytes / 16; }

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// All but the last `pending` committed groups are done.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/// Keeps the compiler from moving what it does with `c` past here.
__device__ __forceinline__ void keep_sums(float (&c)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

#define MEMFORMER_SUMS_8(i)                                                                                   \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define MEMFORMER_SUMS                                                                                        \
  MEMFORMER_SUMS_8(0), MEMFORMER_SUMS_8(8), MEMFORMER_SUMS_8(16), MEMFORMER_SUMS_8(24), MEMFORMER_SUMS_8(32), \
      MEMFORMER_SUMS_8(40), MEMFORMER_SUMS_8(48), MEMFORMER_SUMS_8(56)

#define MEMFORMER_WGMMA(type)                                              \
  asm volatile(                                                            \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type         \
      " "                                                                  \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"   \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, " \
      "%64, %65, adds, 1, 1, 0, %67;\n}"                                   \
      : MEMFORMER_SUMS                                                     \
      : "l"(a), "l"(b), "r"(int{adds}), "n"(int{by_columns}))

/// Starts c = a b, or c += a b if `adds`; `by_columns`: b is a columns_operand.
template <typename T, bool by_columns>
__device__ __forceinline__ void wgmma(float (&c)[64], uint64_t a, uint64_t b, bool adds) {
  if constexpr (std::is_same_v<T, __half>)
    MEMFORMER_WGMMA("f16");
  else
    MEMFORMER_WGMMA("bf16");
}

#undef MEMFORMER_WGMMA
#undef MEMFORMER_SUMS
#undef MEMFORMER_SUMS_8

}  // namespace memformer::cuda
