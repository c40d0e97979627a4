// Where the time goes: LibTorch's own profiler around what the engine runs.
#include <torch/csrc/autograd/profiler_kineto.h>

#include "core/cuda.h"
#include "napi/environment.h"
#include "napi/exports.h"

namespace memformer::napi {
namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;

std::set<ActivityType> activities() {
  std::set<ActivityType> all{ActivityType::CPU};
  if (cuda() != nullptr) all.insert(ActivityType::CUDA);
  return all;
}

/// startProfile(call): from here on, until stopProfile, every operator and kernel is recorded.
Napi::Value start_profile(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  environment.engine().submit(environment.call(info[0]), {}, {}, [](const engine::Tensors&) {
    const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
    profiler::prepareProfiler(config, activities());
    profiler::enableProfiler(config, activities());
    return engine::Tensors();
  });
  return info.Env().Undefined();
}

/// stopProfile(call, path): waits for the device, then writes a trace in Chrome's format.
Napi::Value stop_profile(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  const std::string path = info[1].As<Napi::String>();
  environment.engine().submit(environment.call(info[0]), {}, {}, [path](const engine::Tensors&) {
    if (cuda() != nullptr) cuda()->mark()();
    profiler::disableProfiler()->save(path);
    return engine::Tensors();
  });
  return info.Env().Undefined();
}

}  // namespace

void export_profile(Napi::Env env, Napi::Object exports) {
  export_function<start_profile>(env, exports, "startProfile");
  export_function<stop_profile>(env, exports, "stopProfile");
}

}  // namespace memformer::napi
