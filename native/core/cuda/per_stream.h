// One object of a type per stream, created on first use.
#pragma once
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#include <unordered_map>

namespace memformer::cuda {

/// The one beside the current stream of the current device, whichever thread asks: backward passes run on autograd's
/// thread. All are leaked on purpose: no CUDA call may follow the end of main.
template <typename T>
T& beside_current_stream() {
  static auto* mutex = new std::mutex;
  static auto* all = new std::unordered_map<c10::cuda::CUDAStream, std::unique_ptr<T>>;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  std::lock_guard lock(*mutex);
  auto& one = (*all)[stream];
  if (!one) one.reset(new T(stream));
  return *one;
}

}  // namespace memformer::cuda
