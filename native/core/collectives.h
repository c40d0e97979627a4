// What the ranks of a group do together, over Gloo on CPUs (native/distributed) and over NCCL in the CUDA half. Every
// rank makes the same calls in the same order.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/torch.h"

namespace memformer {

class Collectives {
 public:
  virtual ~Collectives() = default;
  /// Called once, on any thread: "" when the tensor holds its result, or will by the time the current stream reads it;
  /// else why it never will.
  using Done = std::function<void(const std::string& failure)>;

  /// Sums a contiguous tensor over the ranks, in place and to the same bits on all. float32, float64, bfloat16,
  /// float16, int64, int32, uint8.
  virtual void all_reduce(at::Tensor tensor, Done done) = 0;
  /// Copies rank `root`'s tensor into that of the others.
  virtual void broadcast(at::Tensor tensor, int root, Done done) = 0;
  /// Copies each rank's part of a contiguous tensor (n) into that of the others, to the bit: rank r's ends before
  /// number ends[r], where the next rank's begins. Parts may be empty.
  virtual void all_gather(at::Tensor tensor, const std::vector<int64_t>& ends, Done done) = 0;
  /// Gives up what is under way, on any thread; nothing may follow. May block where the transport hangs.
  virtual void abort() = 0;
};

/// A rank's place in a group, and how bytes of rank 0 get to the others.
struct Seat {
  int rank = 0, world = 1;
  /// Rank 0 gives its bytes and gets them back; the others give "" and get rank 0's.
  std::function<std::string(const std::string& bytes)> share;
};

}  // namespace memformer
