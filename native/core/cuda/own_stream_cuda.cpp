#include "core/cuda/own_stream.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

namespace memformer {

c10::cuda::CUDAStream own_stream(c10::DeviceIndex device, Priority priority) {
  const c10::cuda::CUDAGuard guard(device);
  int least = 0, greatest = 0;
  C10_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream = nullptr;
  C10_CUDA_CHECK(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority == Priority::greatest ? greatest : least));
  return c10::cuda::getStreamFromExternal(stream, device);
}

}  // namespace memformer
