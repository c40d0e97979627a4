// The CUDA half as the rest of memformer sees it: a separate shared object, libmemformer_cuda.so, opened at run time
// where there is a CUDA LibTorch and a driver. Opening it also registers the operators' CUDA kernels. It is never
// closed.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/collectives.h"
#include "core/torch.h"

namespace memformer {

struct DeviceMemory {
  int64_t live = 0;      ///< bytes held by tensors and recordings now
  int64_t peak = 0;      ///< the most `live` has been since reset_peak()
  int64_t reserved = 0;  ///< bytes taken from the device, cached ones included
  int64_t free = 0;      ///< bytes nobody has taken
};

/// Memory that recordings share which run one after the other.
struct GraphPool {
  uint64_t first = 0, second = 0;
};

/// Work recorded once and replayed with one launch (a CUDA graph).
class Graph {
 public:
  virtual ~Graph() = default;
  /// Between begin() and end() device work of this thread, and of the backward passes it starts, is recorded instead of
  /// run.
  virtual void begin() = 0;
  virtual void end() = 0;
  /// Gives up what was begun, after a failure.
  virtual void abandon() = 0;
  virtual void launch() = 0;
};

/// What an allocation that failed had asked for.
struct Shortage {
  int64_t requested = 0, free = 0;
};

class Cuda {
 public:
  virtual ~Cuda() = default;
  virtual int devices() = 0;
  virtual std::string name(int device) = 0;
  /// Bytes that it has.
  virtual int64_t total_memory(int device) = 0;
  /// Bytes of shared memory that a block may have.
  virtual int64_t block_memory(int device) = 0;
  /// 90 for 9.0.
  virtual int compute_capability(int device) = 0;
  /// From now on this thread computes on that device, on a stream of its own.
  virtual void enter(int device) = 0;
  /// Marks what this thread has started until now: calling what comes back, on any thread, waits for that. It throws
  /// what a device has failed with.
  virtual std::function<void()> mark() = 0;
  virtual DeviceMemory memory(int device) = 0;
  virtual void reset_peak(int device) = 0;
  /// Gives cached memory back to the device.
  virtual void trim() = 0;
  /// Calls branch(0), …, branch(count - 1), whose work may run side by side: each on a stream of its own, after all
  /// that this thread's stream has been given, and before what it is given next. While a Graph is recorded they are
  /// branches of it. They may not write what another reads. Within a branch the parts of another call run one after the
  /// other.
  virtual void side_by_side(int64_t count, const std::function<void(int64_t)>& branch) = 0;
  virtual GraphPool new_pool() = 0;
  virtual std::unique_ptr<Graph> graph(GraphPool pool) = 0;
  virtual Shortage shortage() = 0;
  /// NCCL between the GPUs of a group's ranks, on a stream of its own. All ranks call it; blocks until all have.
  virtual std::unique_ptr<Collectives> nccl(int device, const Seat& seat) = 0;
};

/// Changes whenever Cuda, Collectives, Recording or an operator's schema does: both halves must have been built from
/// the same.
constexpr int kCudaInterface = 12;

/// The CUDA half; null until it has been opened.
Cuda* cuda();

/// From now on this thread computes on `device`. Throws NO_CUDA when it is a GPU and there is no such one.
void compute_on(at::Device device);

/// Opens it. Throws LOAD_FAILED when it is not there or is for another version of ours, LIBTORCH_MISMATCH when for
/// another of LibTorch; DRIVER_TOO_OLD; NO_CUDA without a driver or device. Idempotent.
void open_cuda(const std::string& path);

}  // namespace memformer
