// A handle's other end: a tensor that will be there once the engine has reached the call that makes it, or that call's
// failure. Only the engine's thread looks inside.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/torch.h"

namespace memformer::engine {

/// Why a call failed, and which call it was: `call` is the number JavaScript gave it, by which it finds the stack.
struct CallFailure {
  std::string code, message, native;
  int64_t call = 0;
  int64_t requested_bytes = 0, free_bytes = 0;  ///< of OUT_OF_MEMORY on a GPU
};

struct Future {
  Future() { ++live; }
  ~Future() { --live; }
  Future(const Future&) = delete;
  Future& operator=(const Future&) = delete;

  at::Tensor tensor;
  std::shared_ptr<const CallFailure> failure;
  bool disposed = false;

  static std::atomic<int64_t> live;  ///< handles of the process
};

using FuturePtr = std::shared_ptr<Future>;
using Futures = std::vector<FuturePtr>;
using Tensors = std::vector<at::Tensor>;

}  // namespace memformer::engine
