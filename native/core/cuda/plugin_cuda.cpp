// The way into the CUDA half: the handshake, and core/cuda.h's classes over LibTorch's allocator, streams and graphs.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/ScopeExit.h>
#include <cuda_runtime_api.h>
#include <torch/version.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/cuda.h"
#include "core/cuda/nccl.h"
#include "core/cuda/own_stream.h"
#include "core/failure.h"

namespace memformer {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

class CapturedGraph final : public Graph {
 public:
  explicit CapturedGraph(GraphPool pool) : pool_(pool) {}

  // Other threads' engines may allocate meanwhile: only this thread is held to what a capture allows.
  void begin() override {
    graph_.capture_begin({pool_.first, pool_.second}, cudaStreamCaptureModeThreadLocal);
    capturing_ = true;
  }

  void end() override {
    capturing_ = false;
    graph_.capture_end();
  }

  void abandon() override {
    if (!capturing_) return;
    capturing_ = false;
    try {
      graph_.capture_end();
    } catch (...) {  // the capture is invalid: ending it is all that was wanted
    }
    cudaGetLastError();
  }

  void launch() override { graph_.replay(); }

 private:
  GraphPool pool_;
  bool capturing_ = false;
  at::cuda::CUDAGraph graph_;
};

/// A place in a stream's work.
class Event {
 public:
  explicit Event(c10::cuda::CUDAStream stream) {
    const c10::cuda::CUDAGuard device(stream.device());
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    C10_CUDA_CHECK(cudaEventRecord(event_, stream));
  }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Any thread.
  void synchronize() const { C10_CUDA_CHECK(cudaEventSynchronize(event_)); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream beside a thread's own. What was allocated on it comes back to it, and it works only after all that the
/// thread's stream has been given: nobody there reads it any more.
class Branch {
 public:
  explicit Branch(c10::DeviceIndex device) : stream_(own_stream(device, Priority::greatest)) {
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;

  /// Runs work() between all that `main` has been given and what it is given after join().
  template <typename Work>
  void run(c10::cuda::CUDAStream main, Work&& work) {
    C10_CUDA_CHECK(cudaEventRecord(event_, main));
    C10_CUDA_CHECK(cudaStreamWaitEvent(stream_, event_));
    const c10::cuda::CUDAStreamGuard guard(stream_);
    work();
  }

  void join(c10::cuda::CUDAStream main) {
    C10_CUDA_CHECK(cudaEventRecord(event_, stream_));
    C10_CUDA_CHECK(cudaStreamWaitEvent(main, event_));
  }

 private:
  c10::cuda::CUDAStream stream_;
  cudaEvent_t event_ = nullptr;
};

/// The streams that a thread computes on, of one device.
struct DeviceStreams {
  std::optional<c10::cuda::CUDAStream> main;
  std::vector<std::unique_ptr<Branch>> branches;
};
using StreamsByDevice = std::map<c10::DeviceIndex, DeviceStreams>;

/// A thread's streams, which one that begins takes over from one that has ended: a process has as many as threads that
/// computed at a time. No stream is destroyed, for a thread may end after the driver.
class ThreadStreams {
 public:
  ThreadStreams() {
    const std::lock_guard lock(spare().mutex);
    auto& left = spare().left;
    if (left.empty()) return;
    by_device = std::move(left.back());
    left.pop_back();
  }
  ~ThreadStreams() {
    const std::lock_guard lock(spare().mutex);
    spare().left.push_back(std::move(by_device));
  }
  ThreadStreams(const ThreadStreams&) = delete;
  ThreadStreams& operator=(const ThreadStreams&) = delete;

  StreamsByDevice by_device;

 private:
  struct Spare {
    std::mutex mutex;
    std::vector<StreamsByDevice> left;  // by threads that have ended
  };
  static Spare& spare() {
    static auto* spare = new Spare;
    return *spare;
  }
};

class Half final : public Cuda {
 public:
  explicit Half(int devices) : devices_(devices) {
    for (int device = 0; device < devices; ++device) {
      block_memory_.push_back(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
      capability_.push_back(10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                            attribute(cudaDevAttrComputeCapabilityMinor, device));
    }
  }

  int devices() override { return devices_; }

  std::string name(int device) override { return properties(device).name; }

  int64_t total_memory(int device) override { return static_cast<int64_t>(properties(device).totalGlobalMem); }

  int64_t block_memory(int device) override { return block_memory_.at(static_cast<size_t>(device)); }

  int compute_capability(int device) override { return capability_.at(static_cast<size_t>(device)); }

  void enter(int device) override {
    prepare(device);
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    auto& main = mine().by_device[static_cast<c10::DeviceIndex>(device)].main;
    if (!main) main = own_stream(static_cast<c10::DeviceIndex>(device), Priority::greatest);
    c10::cuda::setCurrentCUDAStream(*main);
  }

  std::function<void()> mark() override {
    std::vector<std::shared_ptr<Event>> events;
    for (const auto& [device, streams] : mine().by_device)
      if (streams.main) events.push_back(std::make_shared<Event>(*streams.main));
    return [events] {
      for (const auto& event : events) event->synchronize();
    };
  }

  DeviceMemory memory(int device) override {
    DeviceMemory memory;
    if (!allocator::get()->initialized()) return memory;
    const auto stats = allocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    memory.live = stats.allocated_bytes[all].current;
    memory.peak = stats.allocated_bytes[all].peak;
    memory.reserved = stats.reserved_bytes[all].current;
    if (memory.reserved == 0) return memory;  // asking would take memory on a device that is not in use
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) memory.free = static_cast<int64_t>(free);
    return memory;
  }

  void reset_peak(int device) override {
    if (allocator::get()->initialized()) allocator::resetPeakStats(static_cast<c10::DeviceIndex>(device));
  }

  void trim() override {
    if (allocator::get()->initialized()) allocator::emptyCache();
  }

  void side_by_side(int64_t count, const std::function<void(int64_t)>& branch) override {
    thread_local bool inside = false;
    if (inside) {  // the streams are taken
      for (int64_t i = 0; i < count; ++i) branch(i);
      return;
    }
    inside = true;
    const auto leave = c10::make_scope_exit([] { inside = false; });
    const auto main = c10::cuda::getCurrentCUDAStream();
    auto& branches = mine().by_device[main.device_index()].branches;
    while (static_cast<int64_t>(branches.size()) < count)
      branches.push_back(std::make_unique<Branch>(main.device_index()));
    int64_t begun = 0;
    const auto join = [&] {
      for (int64_t i = 0; i < begun; ++i) branches[static_cast<size_t>(i)]->join(main);
    };
    try {
      for (int64_t i = 0; i < count; ++i) {
        ++begun;
        branches[static_cast<size_t>(i)]->run(main, [&] { branch(i); });
      }
    } catch (...) {
      try {
        join();
      } catch (...) {  // the first failure is the one to report
      }
      throw;
    }
    join();
  }

  GraphPool new_pool() override {
    const auto id = at::cuda::graph_pool_handle();
    return {static_cast<uint64_t>(id.first), static_cast<uint64_t>(id.second)};
  }

  std::unique_ptr<Graph> graph(GraphPool pool) override { return std::make_unique<CapturedGraph>(pool); }

  Shortage shortage() override { return {requested_.load(), free_.load()}; }

  std::unique_ptr<Collectives> nccl(int device, const Seat& seat) override {
    prepare(device);
    return memformer::nccl(device, seat);
  }

 private:
  /// This thread's: whatever it computes goes to one of them.
  static ThreadStreams& mine() {
    thread_local ThreadStreams mine;
    return mine;
  }

  static int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
    return value;
  }

  static cudaDeviceProp properties(int device) {
    cudaDeviceProp properties;
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return properties;
  }

  /// LibTorch's allocator and our observer of what it could not give, once.
  void prepare(int device) {
    std::call_once(prepared_, [this] {
      at::globalContext().lazyInitDevice(at::kCUDA);
      allocator::attachOutOfMemoryObserver([this](int64_t, size_t requested, size_t, size_t free) {
        requested_ = static_cast<int64_t>(requested);
        free_ = static_cast<int64_t>(free);
      });
    });
    require(device >= 0 && device < devices_, "NO_CUDA", "there is no device cuda:", device, ": this machine has ",
            devices_);
  }

  int devices_;
  std::vector<int64_t> block_memory_;
  std::vector<int> capability_;
  std::once_flag prepared_;
  std::atomic<int64_t> requested_{0}, free_{0};
};

}  // namespace
}  // namespace memformer

#define MEMFORMER_EXPORT extern "C" __attribute__((visibility("default")))

MEMFORMER_EXPORT int memformer_cuda_interface() { return memformer::kCudaInterface; }

MEMFORMER_EXPORT const char* memformer_cuda_libtorch() { return TORCH_VERSION; }

/// The CUDA half, or null, an error code and the reason. Leaked on purpose: no CUDA call may follow the end of main.
MEMFORMER_EXPORT memformer::Cuda* memformer_cuda_open(const char** code, const char** reason) {
  static std::string said;
  *code = "NO_CUDA";
  int driver = 0, runtime = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    said = "no NVIDIA driver answers (libcuda.so.1)";
  } else if (cudaRuntimeGetVersion(&runtime), driver / 1000 < runtime / 1000) {
    *code = "DRIVER_TOO_OLD";
    said = "the NVIDIA driver is too old: it speaks CUDA " + std::to_string(driver / 1000) + "." +
           std::to_string(driver % 1000 / 10) + ", this LibTorch needs CUDA " + std::to_string(runtime / 1000);
  } else if (const auto status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    said = status == cudaSuccess ? "the driver shows no CUDA device"
                                 : std::string("no CUDA device: ") + cudaGetErrorString(status);
  } else {
    static auto* half = new memformer::Half(devices);
    return half;
  }
  *reason = said.c_str();
  return nullptr;
}
