#include "core/cuda/side_stream.h"

#include <c10/cuda/CUDAException.h>

#include <cstdlib>
#include <cstring>

#include "core/cuda/own_stream.h"

namespace memformer::cuda {
namespace {

cudaEvent_t make_event() {
  cudaEvent_t event;
  C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

}  // namespace

bool SideStream::enabled() {
  static const bool enabled = [] {
    const char* set = std::getenv("MEMFORMER_SIDE_STREAM");
    return set == nullptr || std::strcmp(set, "0") != 0;
  }();
  return enabled;
}

// Of lower priority than the main stream may have: what is waited for goes first.
SideStream::SideStream(c10::cuda::CUDAStream main)
    : main_(main), side_(own_stream(main.device_index(), Priority::least)), ready_(make_event()) {
  for (auto& pending : pending_) pending.done = make_event();
}

SideStream::Fork::Fork(SideStream& side, std::vector<at::Tensor> tensors) : side(side) {
  auto& pending = side.pending();
  if (pending.waiting) C10_CUDA_CHECK(cudaStreamWaitEvent(side.main_, pending.done));
  pending.tensors = std::move(tensors);
  pending.waiting = true;
  C10_CUDA_CHECK(cudaEventRecord(side.ready_, side.main_));
  C10_CUDA_CHECK(cudaStreamWaitEvent(side.side_, side.ready_));
}

SideStream::Fork::~Fork() {
  C10_CUDA_CHECK_WARN(cudaEventRecord(side.pending().done, side.side_));
  ++side.count_;
}

void SideStream::join() {
  std::lock_guard lock(mutex_);
  if (count_ == 0) return;
  const auto last = pending_[(count_ - 1) % kDepth].done;  // the side stream works in order
  const bool waiting = pending_[(count_ - 1) % kDepth].waiting;
  std::array<std::vector<at::Tensor>, kDepth> tensors;  // let go when the wait is enqueued, or has failed
  for (size_t i = 0; i < kDepth; ++i) {
    tensors[i].swap(pending_[i].tensors);
    pending_[i].waiting = false;
  }
  if (waiting) C10_CUDA_CHECK(cudaStreamWaitEvent(main_, last));
}

}  // namespace memformer::cuda
