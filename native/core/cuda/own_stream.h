// Streams that nobody else is given. LibTorch's pool hands out 32 of a device in turn: with many engines on one GPU
// one's side stream could be another's main stream, which does not wait for what the first has yet to read.
#pragma once
#include <c10/cuda/CUDAStream.h>

namespace memformer {

/// Work that a GPU starts first, where it has the choice.
enum class Priority { least, greatest };

/// A new one of `device`, which does not wait for the legacy default stream. It lives as long as the process.
c10::cuda::CUDAStream own_stream(c10::DeviceIndex device, Priority priority);

}  // namespace memformer
