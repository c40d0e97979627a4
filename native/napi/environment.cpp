#include "napi/environment.h"

#include "napi/values.h"

namespace memformer::napi {

void Environment::attach(Napi::Env env) {
  auto* environment = new Environment;
  environment->to_loop_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "memformer", 0, 1);
  environment->to_loop_.Unref(env);
  env.SetInstanceData<Environment>(environment);
  // Runs when a worker ends and when the program ends by itself; process.exit() skips it, so lib/ calls stop() there.
  env.AddCleanupHook([environment] {
    environment->stop();
    environment->to_loop_.Release();
  });
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

engine::Engine& Environment::engine() {
  require(!stopped_, "DISPOSED", "memformer's engine has been stopped in this environment");
  if (!engine_) engine_ = std::make_unique<engine::Engine>(threads_);
  return *engine_;
}

void Environment::stop() {
  stopped_ = true;
  if (engine_) engine_->stop();
}

void Environment::begin(Napi::Env env) {
  if (waiting_++ == 0) to_loop_.Ref(env);
}

void Environment::settle(std::function<void(Napi::Env)> settle) {
  auto* job = new std::function<void(Napi::Env)>(std::move(settle));
  const auto status = to_loop_.NonBlockingCall(job, [this](Napi::Env env, Napi::Function, std::function<void(Napi::Env)>* job) {
    std::unique_ptr<std::function<void(Napi::Env)>> owned(job);
    if (static_cast<napi_env>(env) == nullptr) return;  // the environment is closing
    if (--waiting_ == 0) to_loop_.Unref(env);
    Napi::HandleScope scope(env);
    (*owned)(env);
  });
  // Closing: the promise can reach nobody. Its deferred belongs to the JavaScript thread, so it is left to the environment.
  (void)status;
}

}  // namespace memformer::napi
