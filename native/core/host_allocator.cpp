#include "core/host_allocator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "core/failure.h"
#include "core/torch.h"

#include <c10/core/CPUAllocator.h>

namespace memformer {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kSmallest = 512;  // below it malloc is as good
constexpr size_t kLarge = size_t{1} << 20;
constexpr int64_t kMostCached = int64_t{4} << 30;  // beyond it freed blocks go back to the system at once

/// Before each block, so that it knows its size when it comes back.
struct alignas(kAlignment) Header {
  size_t size;
};

/// Sizes are rounded up to 1/8 of their power of two, so that a block can serve its near neighbours and wastes at
/// most 12.5 %; large ones, a model's parameters say, to 1/64.
size_t round_up(size_t bytes) {
  if (bytes <= kSmallest) return kSmallest;
  const int power = 63 - __builtin_clzll(bytes);
  const size_t step = std::max<size_t>(kAlignment, size_t{1} << (power - (bytes < kLarge ? 3 : 6)));
  return (bytes + step - 1) / step * step;
}

/// Which of the sizes that round_up() gives: at most 64 to a power of two.
size_t shelf_of(size_t size) {
  const int power = 63 - __builtin_clzll(size);
  return static_cast<size_t>(power) * 64 + ((size >> (power - 6)) & 63);
}

class Pool {
 public:
  void* take(size_t bytes) {
    const size_t size = round_up(bytes);
    std::lock_guard lock(mutex_);
    void* block = nullptr;
    auto& shelf = free_[shelf_of(size)];
    if (!shelf.empty()) {
      block = shelf.back();
      shelf.pop_back();
      memory_.cached -= static_cast<int64_t>(size);
    } else {
      block = made(size);
      if (block == nullptr) {
        release_cached();
        block = made(size);
      }
      require(block != nullptr, "OUT_OF_MEMORY", "out of host memory: a tensor asked for ", bytes, " bytes while ",
              memory_.live, " were in use");
    }
    memory_.live += static_cast<int64_t>(size);
    memory_.peak = std::max(memory_.peak, memory_.live);
    return block;
  }

  void give(void* block) {
    std::lock_guard lock(mutex_);
    const size_t size = header_of(block)->size;
    memory_.live -= static_cast<int64_t>(size);
    if (memory_.cached + static_cast<int64_t>(size) > kMostCached) {
      std::free(header_of(block));
      return;
    }
    free_[shelf_of(size)].push_back(block);
    memory_.cached += static_cast<int64_t>(size);
  }

  HostMemory memory() {
    std::lock_guard lock(mutex_);
    return memory_;
  }

  void reset_peak() {
    std::lock_guard lock(mutex_);
    memory_.peak = memory_.live;
  }

  void trim() {
    std::lock_guard lock(mutex_);
    release_cached();
  }

 private:
  static Header* header_of(void* block) { return static_cast<Header*>(block) - 1; }

  /// Null where there is no memory left.
  static void* made(size_t size) {
    void* memory = std::aligned_alloc(kAlignment, sizeof(Header) + size);
    return memory == nullptr ? nullptr : new (memory) Header{size} + 1;
  }

  void release_cached() {
    for (auto& shelf : free_) {
      for (void* block : shelf) std::free(header_of(block));
      shelf.clear();
    }
    memory_.cached = 0;
  }

  std::mutex mutex_;
  std::array<std::vector<void*>, 64 * 64> free_;
  HostMemory memory_;
};

/// Leaked on purpose: tensors of other threads may be freed after static destructors have run.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

/// Null too: oneDNN gives back what it asked for with no bytes.
void give_back(void* block) {
  if (block != nullptr) pool().give(block);
}

class HostAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &give_back, at::kCPU};
    void* block = pool().take(bytes);
    return {block, block, &give_back, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* destination, const void* source, size_t count) const override {
    default_copy_data(destination, source, count);
  }
};

}  // namespace

void install_host_allocator() {
  static HostAllocator* allocator = [] {
    auto* instance = new HostAllocator;
    c10::SetCPUAllocator(instance, /*priority=*/100);
    return instance;
  }();
  (void)allocator;
}

HostMemory host_memory() { return pool().memory(); }
void reset_host_peak() { pool().reset_peak(); }
void trim_host_cache() { pool().trim(); }

}  // namespace memformer
