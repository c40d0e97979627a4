#include "engine/engine.h"

#include "core/cuda.h"
#include "core/failure.h"
#include "core/host_allocator.h"
#include "engine/threads.h"

namespace memformer::engine {

std::atomic<int64_t> Future::live{0};

namespace {

/// The exception in flight as a failure of `call`; must be called inside a catch block.
std::shared_ptr<const CallFailure> describe(int64_t call) {
  auto failure = std::make_shared<CallFailure>();
  failure->call = call;
  failure->code = "NATIVE";
  try {
    throw;
  } catch (const Failure& error) {
    failure->code = error.code();
    failure->message = error.what();
  } catch (const c10::OutOfMemoryError& error) {
    failure->code = "OUT_OF_MEMORY";
    failure->message = error.what_without_backtrace();
    if (cuda() != nullptr) {
      const auto shortage = cuda()->shortage();
      failure->requested_bytes = shortage.requested;
      failure->free_bytes = shortage.free;
      std::ostringstream sentence;
      sentence << "out of GPU memory: a tensor asked for " << shortage.requested << " bytes, " << shortage.free
               << " were free";
      failure->message = sentence.str();
    }
  } catch (const c10::Error& error) {
    failure->message = error.what_without_backtrace();
    failure->native = error.what();
  } catch (const std::bad_alloc&) {
    failure->code = "OUT_OF_MEMORY";
    failure->message = "out of host memory";
  } catch (const std::exception& error) {
    failure->message = error.what();
  } catch (...) {
    failure->message = "an exception that is no std::exception";
  }
  return failure;
}

std::shared_ptr<const CallFailure> failure_of(int64_t call, const char* code, const char* message) {
  auto failure = std::make_shared<CallFailure>();
  failure->call = call;
  failure->code = code;
  failure->message = message;
  return failure;
}

/// The first failure among the inputs, or null; a disposed handle is one.
std::shared_ptr<const CallFailure> first_failure(int64_t call, const Futures& inputs) {
  for (const auto& future : inputs) {
    if (future == nullptr) continue;
    if (future->failure) return future->failure;
    if (future->disposed) return failure_of(call, "DISPOSED", "a tensor of this call was disposed of before the call");
  }
  return nullptr;
}

Tensors tensors_of(const Futures& futures) {
  Tensors tensors;
  tensors.reserve(futures.size());
  for (const auto& future : futures) tensors.push_back(future == nullptr ? at::Tensor() : future->tensor);
  return tensors;
}

}  // namespace

Engine::Engine(int threads)
    : calls_([threads] {
        install_host_allocator();
        limit_threads(threads);
      }) {}

Engine::~Engine() { stop(); }

void Engine::submit(Call call, Futures inputs, Futures outputs, Work work) {
  calls_.add([this, call = std::move(call), inputs = std::move(inputs), outputs = std::move(outputs),
              work = std::move(work)] { execute(call, inputs, outputs, work); });
}

void Engine::execute(const Call& call, const Futures& inputs, const Futures& outputs, const Work& work) {
  if (outputs.empty() && pending_) return;
  auto failure = first_failure(call.number, inputs);
  if (!failure && call.cancel && call.cancel->load(std::memory_order_relaxed))
    failure = failure_of(call.number, "ABORTED", "the operation was aborted");
  if (!failure) {
    try {
      auto results = work(tensors_of(inputs));
      require(results.size() == outputs.size() || outputs.empty(), "NATIVE", "a call made ", results.size(),
              " tensors, ", outputs.size(), " were expected");
      for (size_t i = 0; i < outputs.size(); ++i) outputs[i]->tensor = std::move(results[i]);
      return;
    } catch (...) {
      failure = describe(call.number);
    }
  }
  for (const auto& future : outputs) future->failure = failure;
  if (outputs.empty()) pending_ = failure;
}

void Engine::read(Call call, Futures inputs, Reader reader) {
  calls_.add([this, call = std::move(call), inputs = std::move(inputs), reader = std::move(reader)] {
    auto failure = pending_ ? std::exchange(pending_, nullptr) : first_failure(call.number, inputs);
    if (failure) return reader({}, failure);
    try {
      reader(tensors_of(inputs), nullptr);
    } catch (...) {
      reader({}, describe(call.number));
    }
  });
}

void Engine::release(FuturePtr future) {
  calls_.add([future = std::move(future)] {
    future->tensor.reset();
    future->disposed = true;
  });
}

std::shared_ptr<const at::Tensor> Engine::freed_between_calls(at::Tensor tensor) {
  return {new at::Tensor(std::move(tensor)), [weak = weak_from_this()](const at::Tensor* held) {
            const std::shared_ptr<const at::Tensor> last(held);
            if (const auto engine = weak.lock(); engine && !engine->calls_.is_current()) engine->calls_.add([last] {});
          }};
}

void Engine::settle_after(const Call& call, std::function<void()> wait, Settle settle) {
  waiting_.add([call = call.number, wait = std::move(wait), settle = std::move(settle)] {
    std::shared_ptr<const CallFailure> failure;
    try {
      wait();
    } catch (...) {
      failure = describe(call);
    }
    settle(failure);
  });
}

void Engine::stop() {
  calls_.stop();
  waiting_.stop();
}

}  // namespace memformer::engine
