// Engine, devices, memory, versions, cancelling.
#include <torch/version.h>

#include "core/cuda.h"
#include "core/host_allocator.h"
#include "napi/environment.h"
#include "napi/exports.h"

namespace memformer::napi {
namespace {

/// configure(threads): before the first call that needs the engine.
Napi::Value configure(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).configure(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

/// stop(): drops what waits, joins the engine's thread. For process.on("exit").
Napi::Value stop(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).stop();
  return info.Env().Undefined();
}

Napi::Value memory(const Napi::CallbackInfo& info) {
  const auto host = host_memory();
  auto result = Napi::Object::New(info.Env());
  result.Set("tensors", static_cast<double>(engine::Future::live.load()));
  result.Set("hostBytes", static_cast<double>(host.live));
  result.Set("peakHostBytes", static_cast<double>(host.peak));
  result.Set("cachedBytes", static_cast<double>(host.cached));
  DeviceMemory sum;
  for (int device = 0; cuda() != nullptr && device < cuda()->devices(); ++device) {
    const auto one = cuda()->memory(device);
    sum.live += one.live;
    sum.peak += one.peak;
    sum.reserved += one.reserved;
  }
  result.Set("deviceBytes", static_cast<double>(sum.live));
  result.Set("peakDeviceBytes", static_cast<double>(sum.peak));
  result.Set("reservedDeviceBytes", static_cast<double>(sum.reserved));
  return result;
}

/// resetPeak(call): when the calls made before have run, the peak starts anew from what is in use then.
Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  environment.engine().submit(environment.call(info[0]), {}, {}, [](const engine::Tensors&) {
    reset_host_peak();
    for (int device = 0; cuda() != nullptr && device < cuda()->devices(); ++device) cuda()->reset_peak(device);
    return engine::Tensors();
  });
  return info.Env().Undefined();
}

Napi::Value trim(const Napi::CallbackInfo& info) {
  trim_host_cache();
  if (cuda() != nullptr) cuda()->trim();
  return info.Env().Undefined();
}

Napi::Value versions(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("libtorch", TORCH_VERSION);
  result.Set("threads", at::get_num_threads());
  return result;
}

/// openCuda(path): { name, bytes }[], a device each.
Napi::Value open_cuda(const Napi::CallbackInfo& info) {
  memformer::open_cuda(info[0].As<Napi::String>());
  at::globalContext().setAllowTF32CuDNN(false);  // as setMath's `tf32`, whose default for products is false already
  auto devices = Napi::Array::New(info.Env());
  for (int device = 0; device < cuda()->devices(); ++device) {
    auto entry = Napi::Object::New(info.Env());
    entry.Set("name", cuda()->name(device));
    entry.Set("bytes", static_cast<double>(cuda()->total_memory(device)));
    devices.Set(devices.Length(), entry);
  }
  return devices;
}

/// setMath(call, tf32, deterministic): whether a GPU's float32 products may round their factors to TF32, and whether
/// the same input must give the same bits.
Napi::Value set_math(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  const bool tf32 = info[1].As<Napi::Boolean>(), deterministic = info[2].As<Napi::Boolean>();
  environment.engine().submit(environment.call(info[0]), {}, {}, [tf32, deterministic](const engine::Tensors&) {
    at::globalContext().setFloat32MatmulPrecision(tf32 ? "high" : "highest");
    at::globalContext().setAllowTF32CuDNN(tf32);
    at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(
        false);  // every number is written: the operators' tests see to that
    return engine::Tensors();
  });
  return info.Env().Undefined();
}

Napi::Value new_cancel(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), Kind::cancel, std::make_shared<std::atomic<bool>>(false));
}

/// useCancel(flag | null): the flag that calls carry from now on.
Napi::Value use_cancel(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).cancel =
      info[0].IsExternal() ? unwrap<std::atomic<bool>>(info[0], Kind::cancel, "flag") : engine::CancelFlag();
  return info.Env().Undefined();
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  unwrap<std::atomic<bool>>(info[0], Kind::cancel, "flag")->store(true);
  return info.Env().Undefined();
}

}  // namespace

void export_runtime(Napi::Env env, Napi::Object exports) {
  export_function<configure>(env, exports, "configure");
  export_function<stop>(env, exports, "stop");
  export_function<memory>(env, exports, "memory");
  export_function<reset_peak>(env, exports, "resetPeak");
  export_function<trim>(env, exports, "trim");
  export_function<versions>(env, exports, "versions");
  export_function<open_cuda>(env, exports, "openCuda");
  export_function<set_math>(env, exports, "setMath");
  export_function<new_cancel>(env, exports, "newCancel");
  export_function<use_cancel>(env, exports, "useCancel");
  export_function<cancel>(env, exports, "cancel");
}

}  // namespace memformer::napi
