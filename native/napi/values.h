// JavaScript values to C++ ones and back. Handles are externals with a type tag of ours.
#pragma once
#include <napi.h>

#include "core/failure.h"
#include "engine/future.h"
#include "nn/config.h"

namespace memformer::napi {

/// Kinds of handle; a wrong or foreign handle is a TypeError, not a crash.
enum class Kind : uint64_t { tensor = 1, model, optimizer, cancel, decoder, group };

template <typename T>
Napi::Value wrap(Napi::Env env, Kind kind, std::shared_ptr<T> object) {
  // In a worker that is being terminated no external can be made any more; what it should have held is freed then.
  auto held = std::make_unique<std::shared_ptr<T>>(std::move(object));
  auto external = Napi::External<std::shared_ptr<T>>::New(env, held.get(),
                                                          [](Napi::Env, std::shared_ptr<T>* given) { delete given; });
  held.release();
  const napi_type_tag tag{0x6d656d666f726d65u, static_cast<uint64_t>(kind)};
  external.TypeTag(&tag);
  return external;
}

template <typename T>
std::shared_ptr<T> unwrap(const Napi::Value& value, Kind kind, const char* what) {
  const napi_type_tag tag{0x6d656d666f726d65u, static_cast<uint64_t>(kind)};
  if (!value.IsExternal() || !value.As<Napi::External<std::shared_ptr<T>>>().CheckTypeTag(&tag))
    throw Napi::TypeError::New(value.Env(), std::string(what) + " is not a handle of that kind");
  const auto& held = *value.As<Napi::External<std::shared_ptr<T>>>().Data();
  require(held != nullptr, "DISPOSED", "the ", what, " has been disposed of");
  return held;
}

/// Lets go of what a handle holds, without waiting for the garbage collector; calls that are under way keep it until
/// they have run.
template <typename T>
void let_go(const Napi::Value& value, Kind kind, const char* what) {
  unwrap<T>(value, kind, what);  // refuses a wrong handle
  value.As<Napi::External<std::shared_ptr<T>>>().Data()->reset();
}

engine::FuturePtr future(const Napi::Value& value, const char* what);
/// An array of handles; null and undefined become null slots.
engine::Futures futures(const Napi::Value& value, const char* what);
/// `count` fresh slots and the JavaScript array of their handles.
Napi::Array new_futures(Napi::Env env, size_t count, engine::Futures& futures);

at::ScalarType dtype(const std::string& name);
const char* dtype_name(at::ScalarType dtype);
std::vector<int64_t> integers(const Napi::Value& value);
std::vector<double> numbers(const Napi::Value& value);
nn::Config config(const Napi::Value& value);

/// An Error that carries a failure's code, call number and native text.
Napi::Value error(Napi::Env env, const engine::CallFailure& failure);

}  // namespace memformer::napi
