#include "napi/environment.h"

#include "napi/values.h"

namespace memformer::napi {

void Environment::attach(Napi::Env env) {
  auto* environment = new Environment;
  environment->to_loop_ =
      decltype(to_loop_)::New(env, "memformer", /*maxQueueSize=*/0, /*initialThreadCount=*/1, environment);
  environment->to_loop_.Unref(env);
  environment->door_->environment_ = environment;
  env.SetInstanceData<Environment>(environment);
  // Runs when a worker ends and when the program ends by itself; process.exit() skips it, so lib/ calls stop() there.
  env.AddCleanupHook([environment] {
    environment->stop();
    {
      std::lock_guard lock(environment->door_->mutex_);
      environment->door_->environment_ = nullptr;
    }
    environment->to_loop_.Release();
  });
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

engine::Engine& Environment::engine() {
  require(!stopped_, "DISPOSED", "memformer's engine has been stopped in this environment");
  if (!engine_) engine_ = std::make_shared<engine::Engine>(threads_);
  return *engine_;
}

void Environment::stop() {
  stopped_ = true;
  for (const auto& step : before_stop_) step();
  if (engine_) engine_->stop();
}

void Environment::Door::settle(Settlement settlement) {
  std::lock_guard lock(mutex_);
  if (environment_ != nullptr) environment_->settle(std::move(settlement));
}

void Environment::begin(Napi::Env env) {
  if (waiting_++ == 0) to_loop_.Ref(env);
}

void Environment::settle(Settlement settlement) {
  auto owned = std::make_unique<Settlement>(std::move(settlement));
  // Where the environment is closing the promise can reach nobody, and what it would have resolved with is freed here.
  if (to_loop_.NonBlockingCall(owned.get()) == napi_ok) owned.release();
}

/// On the event loop; without `env` where the environment has closed since, and then only what was on its way is freed.
void Environment::deliver(Napi::Env env, Napi::Function, Environment* environment, Settlement* settlement) {
  std::unique_ptr<Settlement> owned(settlement);
  if (static_cast<napi_env>(env) == nullptr) return;
  if (--environment->waiting_ == 0) environment->to_loop_.Unref(env);
  Napi::HandleScope scope(env);
  (*owned)(env);
}

}  // namespace memformer::napi
