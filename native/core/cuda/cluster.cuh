// Blocks of a cluster: barriers of all their threads, and stores to each other's shared memory (compute capability 9.0;
// elsewhere these do nothing, and no cluster can be launched).
#pragma once
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"

namespace memformer::cuda {

/// This thread has come; with `release`, others see what it has written once they have waited.
template <bool release>
__device__ __forceinline__ void arrive_at_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (release)
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  else
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

/// Until every thread of the cluster has arrived.
__device__ __forceinline__ void wait_for_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// 16 bytes to where block `rank` of the cluster has what this block has at `own`, a multiple of 16 bytes.
__device__ __forceinline__ void store_in_cluster(void* own, int rank, const uint4& bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(there)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(rank));
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(there), "r"(bytes.x), "r"(bytes.y),
               "r"(bytes.z), "r"(bytes.w)
               : "memory");
#endif
}

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
