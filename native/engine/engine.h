// The one thread that owns all torch work of an environment, and its queue. Calls run in the order they were made;
// thread-local modes (grad mode, OpenMP team) mean one thing; JavaScript's thread and libuv's pool stay free.
#pragma once
#include <functional>

#include "engine/future.h"
#include "engine/worker.h"

namespace memformer::engine {

/// Set by an AbortSignal; calls that carry it are skipped, with code ABORTED, from then on.
using CancelFlag = std::shared_ptr<std::atomic<bool>>;

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  /// threads: OpenMP's team for the operators, 0: LibTorch's default (the number of cores).
  explicit Engine(int threads);
  ~Engine();

  struct Call {
    int64_t number = 0;
    CancelFlag cancel;
  };
  using Work = std::function<Tensors(const Tensors&)>;
  using Reader = std::function<void(const Tensors&, std::shared_ptr<const CallFailure>)>;
  using Settle = std::function<void(std::shared_ptr<const CallFailure>)>;

  /// Runs `work` on the inputs' tensors and puts what it returns into the outputs. If an input has failed, so have the
  /// outputs; if `work` throws, the outputs fail with that. A call without outputs that fails is kept: see read().
  void submit(Call call, Futures inputs, Futures outputs, Work work);
  /// Calls `reader` with the inputs' tensors, or with the first failure among them; or with that of an earlier call
  /// without outputs, which is thereby cleared. While such a failure waits, further calls without outputs are skipped:
  /// an optimizer step never follows a backward pass that failed.
  void read(Call call, Futures inputs, Reader reader);
  /// From a reader: calls `settle` once `wait` has returned, or with what it threw. A thread of its own waits, in the
  /// order of the calls, and this one goes on giving the device work.
  void settle_after(const Call& call, std::function<void()> wait, Settle settle);
  /// Frees the slot's tensor when the calls made before have run.
  void release(FuturePtr future);

  /// The tensor, to be let go of on any thread, whose memory is freed between two calls: freeing pinned memory records
  /// an event on the stream that has used it, and while a step is being recorded the event would belong to the
  /// recording.
  std::shared_ptr<const at::Tensor> freed_between_calls(at::Tensor tensor);

  /// Drops what waits, lets the call that runs finish, joins the thread. Idempotent.
  void stop();

 private:
  void execute(const Call& call, const Futures& inputs, const Futures& outputs, const Work& work);

  std::shared_ptr<const CallFailure> pending_;  // of a call without outputs
  Worker waiting_, calls_;                      // calls_ ends first: its steps add to the other
};

}  // namespace memformer::engine
