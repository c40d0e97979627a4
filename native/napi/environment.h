// Everything that one JavaScript environment (the main thread, or a worker) owns: an engine, and the way back to its
// event loop. No process-wide JavaScript state: instance data, freed by a cleanup hook.
#pragma once
#include <napi.h>

#include "engine/engine.h"

namespace memformer::napi {

class Environment {
 public:
  static void attach(Napi::Env env);
  static Environment& of(Napi::Env env);

  /// The engine, started at the first call; throws DISPOSED after stop().
  engine::Engine& engine();
  void configure(int threads) { threads_ = threads; }
  void stop();

  /// A call with JavaScript's number for it and the flag in force.
  engine::Engine::Call call(const Napi::Value& number) const {
    return {number.As<Napi::Number>().Int64Value(), cancel};
  }

  /// Runs `settle` on the event loop; any thread. Each begin() keeps the process alive until its settle has run.
  void begin(Napi::Env env);
  void settle(std::function<void(Napi::Env)> settle);

  /// The way to the event loop for a thread that may outlive the environment: what it settles then reaches nobody.
  class Door {
   public:
    void settle(std::function<void(Napi::Env)> settle);

   private:
    friend class Environment;
    std::mutex mutex_;
    Environment* environment_ = nullptr;
  };
  std::shared_ptr<Door> door() const { return door_; }

  /// Called by stop() before it waits for the engine's thread, which may be waiting for something else.
  void before_stop(std::function<void()> step) { before_stop_.push_back(std::move(step)); }

  engine::CancelFlag cancel;

 private:
  using Settlement = std::function<void(Napi::Env)>;
  static void deliver(Napi::Env env, Napi::Function, Environment* environment, Settlement* settlement);

  std::shared_ptr<engine::Engine> engine_;
  std::shared_ptr<Door> door_ = std::make_shared<Door>();
  std::vector<std::function<void()>> before_stop_;
  Napi::TypedThreadSafeFunction<Environment, Settlement, &Environment::deliver> to_loop_;
  int threads_ = 0;
  int64_t waiting_ = 0;
  bool stopped_ = false;
};

}  // namespace memformer::napi
