#include "napi/values.h"

namespace memformer::napi {
namespace {

struct DtypeName {
  at::ScalarType dtype;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{at::kFloat, "float32"},     {at::kDouble, "float64"}, {at::kHalf, "float16"},
                                 {at::kBFloat16, "bfloat16"}, {at::kLong, "int64"},     {at::kInt, "int32"},
                                 {at::kByte, "uint8"},        {at::kBool, "bool"}};

}  // namespace

engine::FuturePtr future(const Napi::Value& value, const char* what) {
  return unwrap<engine::Future>(value, Kind::tensor, what);
}

engine::Futures futures(const Napi::Value& value, const char* what) {
  const auto array = value.As<Napi::Array>();
  engine::Futures result;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value element = array[i];
    result.push_back(element.IsNull() || element.IsUndefined() ? nullptr : future(element, what));
  }
  return result;
}

Napi::Array new_futures(Napi::Env env, size_t count, engine::Futures& futures) {
  auto handles = Napi::Array::New(env, count);
  for (size_t i = 0; i < count; ++i) {
    futures.push_back(std::make_shared<engine::Future>());
    handles.Set(static_cast<uint32_t>(i), wrap(env, Kind::tensor, futures.back()));
  }
  return handles;
}

at::ScalarType dtype(const std::string& name) {
  for (const auto& entry : kDtypes)
    if (name == entry.name) return entry.dtype;
  throw Failure("DTYPE", "there is no dtype '" + name + "'");
}

const char* dtype_name(at::ScalarType dtype) {
  for (const auto& entry : kDtypes)
    if (dtype == entry.dtype) return entry.name;
  throw Failure("DTYPE", std::string("tensors of dtype ") + c10::toString(dtype) + " cannot be read");
}

std::vector<int64_t> integers(const Napi::Value& value) {
  const auto array = value.As<Napi::Array>();
  std::vector<int64_t> result;
  for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(array.Get(i).As<Napi::Number>().Int64Value());
  return result;
}

std::vector<double> numbers(const Napi::Value& value) {
  const auto array = value.As<Napi::Array>();
  std::vector<double> result;
  for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(array.Get(i).As<Napi::Number>().DoubleValue());
  return result;
}

nn::Config config(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  std::unordered_map<std::string, nn::Config::Value> values;
  const auto keys = object.GetPropertyNames();
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    const std::string key = keys.Get(i).As<Napi::String>();
    const auto entry = object.Get(key);
    if (entry.IsNumber())
      values.emplace(key, entry.As<Napi::Number>().DoubleValue());
    else if (entry.IsBoolean())
      values.emplace(key, entry.As<Napi::Boolean>().Value());
    else if (entry.IsString())
      values.emplace(key, entry.As<Napi::String>().Utf8Value());
  }
  return nn::Config(std::move(values));
}

Napi::Value error(Napi::Env env, const engine::CallFailure& failure) {
  auto error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  error.Set("call", Napi::Number::New(env, static_cast<double>(failure.call)));
  if (!failure.native.empty()) error.Set("native", Napi::String::New(env, failure.native));
  if (failure.requested_bytes > 0) {
    error.Set("requestedBytes", Napi::Number::New(env, static_cast<double>(failure.requested_bytes)));
    error.Set("freeBytes", Napi::Number::New(env, static_cast<double>(failure.free_bytes)));
  }
  return error.Value();
}

}  // namespace memformer::napi
