// The groups of functions JavaScript sees, and the guard around each of them. Every enqueuing call takes its number
// first.
#pragma once
#include "napi/values.h"

namespace memformer::napi {

void export_runtime(Napi::Env env, Napi::Object exports);      ///< engine, devices, memory, versions, cancelling
void export_tensors(Napi::Env env, Napi::Object exports);      ///< tensors, operators, gradients
void export_models(Napi::Env env, Napi::Object exports);       ///< models, their parameters
void export_model_steps(Napi::Env env, Napi::Object exports);  ///< the steps of a model
void export_decoding(Napi::Env env, Napi::Object exports);     ///< a model's decoding, token by token
void export_optimizers(Napi::Env env, Napi::Object exports);   ///< the optimizer
void export_distributed(Napi::Env env, Napi::Object exports);  ///< ranks that train together
void export_profile(Napi::Env env, Napi::Object exports);      ///< LibTorch's profiler

using Body = Napi::Value (*)(const Napi::CallbackInfo&);

/// Exports `body` under `name`; a failure it throws becomes a JavaScript error with its code.
template <Body body>
void export_function(Napi::Env env, Napi::Object exports, const char* name) {
  const auto guarded = [](const Napi::CallbackInfo& info) -> Napi::Value {
    const auto raise = [&info](const char* message, const std::string& code) {
      auto error = Napi::Error::New(info.Env(), message);
      error.Set("code", Napi::String::New(info.Env(), code));
      throw error;
    };
    try {
      return body(info);
    } catch (const Failure& failure) {
      raise(failure.what(), failure.code());
    } catch (const c10::Error& failure) {
      raise(failure.what_without_backtrace(), "NATIVE");
    }
    return info.Env().Undefined();
  };
  exports.Set(name, Napi::Function::New(env, guarded, name));
}

}  // namespace memformer::napi
