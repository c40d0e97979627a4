// Blocks of a cluster: that all of them have begun, and loads from and stores to each other's shared memory (compute
// capability 9.0; elsewhere these do nothing, and no cluster can be launched).
#pragma once
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/hopper.cuh"

namespace memformer::cuda {

/// This thread has begun.
__device__ __forceinline__ void arrive_at_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

/// Until every thread of the cluster has arrived.
__device__ __forceinline__ void wait_for_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// Every thread of the cluster comes here, and what each has written to shared memory before is seen by all after it.
__device__ __forceinline__ void meet_in_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// What block `rank` of the cluster has where this block has `own`, in shared memory.
__device__ __forceinline__ uint32_t address_in_cluster(const void* own, int rank) {
  uint32_t there = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(own)), "r"(rank));
#endif
  return there;
}

/// Four numbers of block `rank`, at the place of `own`, a multiple of 16 bytes.
__device__ __forceinline__ float4 load_from_cluster(const float4* own, int rank) {
  float4 x{};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address_in_cluster(own, rank))
               : "memory");
#endif
  return x;
}
__device__ __forceinline__ float2 load_from_cluster(const float2* own, int rank) {
  float2 x{};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
               : "=f"(x.x), "=f"(x.y)
               : "r"(address_in_cluster(own, rank))
               : "memory");
#endif
  return x;
}

/// In shared memory: counts the bytes that blocks of the cluster send to this one, once.
class Inbox {
 public:
  /// One thread says how many will come, before it arrives at the cluster.
  __device__ __forceinline__ void open(uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    come_.init(1);
    fence_barriers();
    come_.expect(bytes);
#endif
  }

  /// Until all have come: this thread sees them.
  __device__ __forceinline__ void wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    come_.wait(0);
#endif
  }

  /// Has 16 bytes stored where block `rank` of the cluster has what this block has at `own`, a multiple of 16 bytes,
  /// and counted by its inbox at the same place as this one. Unlike at a barrier of the cluster, nobody here waits for
  /// that.
  __device__ __forceinline__ void send(void* own, int rank, const uint4& bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     address_in_cluster(own, rank)),
                 "r"(bytes.x), "r"(bytes.y), "r"(bytes.z), "r"(bytes.w), "r"(address_in_cluster(&come_, rank))
                 : "memory");
#endif
  }

 private:
  Barrier come_;
};

/// Whether the current device launches `kernel` in clusters of `blocks` of so many threads, with so many bytes of
/// shared memory each; raises the kernel's limit of these.
template <typename Kernel>
bool launches_clusters(Kernel kernel, unsigned blocks, unsigned threads, size_t bytes) {
  int device = 0, most = 0, clusters = 0;
  if (!launches_dependents() || cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess ||
      bytes > static_cast<size_t>(most))
    return false;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  const bool fits = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters > 0;
  cudaGetLastError();  // where it does not, the caller does otherwise
  return fits;
}

}  // namespace memformer::cuda
