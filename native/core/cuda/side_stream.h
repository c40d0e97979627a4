// A side stream for the gradients of weights, which nothing needs before the backward pass is over, while the main
// stream continues with the gradients of activations, which everything waits for. Both may be part of a graph being
// captured.
#pragma once
#include <c10/cuda/CUDAGuard.h>

#include <array>
#include <mutex>
#include <vector>

#include "core/cuda/per_stream.h"
#include "core/torch.h"

namespace memformer::cuda {

class SideStream {
 public:
  explicit SideStream(c10::cuda::CUDAStream main);

  /// Runs `work` after all that the current stream has been given so far. It may read `tensors`: the allocator, which
  /// knows them to be of the current stream, gets them back when that stream waits for the work, a few works later at
  /// the latest.
  template <typename Work>
  void run(std::vector<at::Tensor> tensors, Work&& work) {
    if (!enabled()) return work();
    std::lock_guard lock(mutex_);
    const Fork fork(*this, std::move(tensors));
    const c10::cuda::CUDAStreamGuard guard(side_);
    work();
  }

  /// The current stream waits for all of it.
  void join();

 private:
  static constexpr size_t kDepth = 8;  // works whose tensors are kept

  struct Pending {
    cudaEvent_t done;
    std::vector<at::Tensor> tensors;
    bool waiting = false;
  };

  /// From the side stream's waiting for the main stream to the mark behind the work, also when that fails.
  struct Fork {
    Fork(SideStream& side, std::vector<at::Tensor> tensors);
    ~Fork();
    SideStream& side;
  };

  /// MEMFORMER_SIDE_STREAM=0 turns it off.
  static bool enabled();
  Pending& pending() { return pending_[count_ % kDepth]; }

  std::mutex mutex_;
  c10::cuda::CUDAStream main_, side_;
  cudaEvent_t ready_;
  std::array<Pending, kDepth> pending_;
  size_t count_ = 0;  // works so far: number k is pending_[k % kDepth]
};

}  // namespace memformer::cuda
