// Kernels that begin before the one ahead of them has ended (programmatic dependent launch, compute capability 9.0):
// what they read of weights and of earlier steps is under way when their turn comes. Such a kernel calls
// wait_for_previous() in every thread before it reads or writes anything that the kernel ahead of it touches, and
// let_next_begin() after that: what lies two kernels back is then complete before the first line of the next. Only who
// enqueues them knows that: others launch the same kernels one after the other, and both calls do nothing.
#pragma once
#include <cuda_runtime.h>

namespace memformer::cuda {

__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Asks for the line of memory at `address`, which exists, to be brought to the L2 cache.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

/// Whether the kernels were compiled for a device that can: those of an older one would not wait.
constexpr bool waits_are_compiled() {
  for (const int architecture : {__CUDA_ARCH_LIST__})
    if (architecture >= 900) return true;
  return false;
}

/// Whether the current device can.
inline bool launches_dependents() {
  int device = 0, major = 0;
  return waits_are_compiled() && cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

/// `early`: before the kernel ahead has ended, where the device can. `cluster`: blocks along x that form a cluster, of
/// which the grid is a multiple (core/cuda/cluster.cuh).
template <typename Params>
void launch(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const Params& params, bool early, unsigned cluster = 1) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (early && launches_dependents()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace memformer::cuda
