// Barriers and bulk copies for Hopper's copy engine (PTX ISA, mbarrier and cp.async.bulk.tensor): barriers in shared
// memory that count arrivals and bytes, and copies of boxes of a matrix described by a CUtensorMap. Device code for
// sm_90 alone.
#pragma once
#include <cuda.h>

#include "core/cuda/numeric.cuh"

namespace memformer::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// In shared memory. A phase is over when all its arrivals and all bytes announced for it have come; phases have
/// parities 0, 1, 0, ...
class Barrier {
 public:
  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }

  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }

  /// Announces `bytes` of copies, and arrives.
  __device__ __forceinline__ void expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }

  /// Until the phase of this parity is over; before its first phase is, a barrier counts as past one of parity 1.
  __device__ __forceinline__ void wait(uint32_t parity) {
    while (!is_over(parity)) {
    }
  }

 private:
  __device__ __forceinline__ bool is_over(uint32_t parity) {
    uint32_t over;
    asm volatile(
        "{\n.reg .pred over;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, over;\n}"
        : "=r"(over)
        : "r"(shared_address(this)), "r"(parity)
        : "memory");
    return over != 0;
  }

  uint64_t word_;
};

/// Barriers just initialized are seen by the copy engine; a barrier of the block follows.
__device__ __forceinline__ void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// What this thread has written to shared memory is seen by copies that are started after the next barrier.
__device__ __forceinline__ void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Threads of the block, a multiple of 32, that meet at barrier `id` (1 to 15).
template <int id, int threads>
__device__ __forceinline__ void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(id), "n"(threads) : "memory");
}

/// The registers of a thread of this warp group, from now on: a multiple of 8. All its threads say so.
template <int count>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

/// The box from (row, column) into shared memory; `barrier` gets its bytes. What lies outside the matrix comes as
/// zeros.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, int row, int column, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&barrier))
      : "memory");
}

/// Into the L2 cache alone.
__device__ __forceinline__ void prefetch_box(const CUtensorMap& map, int row, int column) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row)
               : "memory");
}

/// Shared memory to the box from (row, column), but for what lies outside the matrix.
__device__ __forceinline__ void store_box(const CUtensorMap& map, int row, int column, const void* from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column),
               "r"(row), "r"(shared_address(from))
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/// This thread's store_box have read their shared memory.
__device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

/// This thread's store_box have written.
__device__ __forceinline__ void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// Four 8 x 8 tiles of two-byte numbers to shared memory, as load_tiles reads them: lane l gives the address of row l %
/// 8 of tile l / 8.
__device__ __forceinline__ void store_tiles(void* row, uint32_t first, uint32_t second, uint32_t third,
                                            uint32_t fourth) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(first), "r"(second), "r"(third), "r"(fourth)
               : "memory");
}

}  // namespace memformer::cuda
