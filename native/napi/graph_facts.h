// What JavaScript may know of recorded steps.
#pragma once
#include "engine/graph_cache.h"
#include "napi/environment.h"

namespace memformer::napi {

/// Promise<{ steps, refusal }> of the graphs that `graphs()` gives once the calls made before info[0] have run; null:
/// none yet.
template <typename Graphs>
Napi::Value graph_facts(const Napi::CallbackInfo& info, Graphs graphs) {
  auto& environment = Environment::of(info.Env());
  auto deferred = std::make_shared<Napi::Promise::Deferred>(info.Env());
  const auto promise = deferred->Promise();
  environment.begin(info.Env());
  environment.engine().read(
      environment.call(info[0]), {},
      [&environment, deferred, graphs](const engine::Tensors&, std::shared_ptr<const engine::CallFailure> failure) {
        const engine::GraphCache* cache = graphs();
        const auto steps = cache == nullptr ? 0 : cache->size();
        const auto refusal = cache == nullptr ? std::string() : cache->refusal();
        environment.settle([deferred, failure, steps, refusal](Napi::Env env) {
          if (failure) return deferred->Reject(error(env, *failure));
          auto result = Napi::Object::New(env);
          result.Set("steps", static_cast<double>(steps));
          result.Set("refusal", refusal);
          deferred->Resolve(result);
        });
      });
  return promise;
}

}  // namespace memformer::napi
