// Tensors, operators by name, gradients.
#include "core/cuda.h"
#include "engine/gradients.h"
#include "napi/devices.h"
#include "napi/dispatch.h"
#include "napi/environment.h"
#include "napi/exports.h"

namespace memformer::napi {
namespace {

using engine::Tensors;

/// tensor(dtype, shape, bytes): a handle; the bytes are copied now.
Napi::Value tensor(const Napi::CallbackInfo& info) {
  const auto type = dtype(info[0].As<Napi::String>().Utf8Value());
  const auto shape = integers(info[1]);
  const auto bytes = info[2].As<Napi::Uint8Array>();
  auto value = at::empty(shape, type);
  require(bytes.ByteLength() == value.nbytes(), "SHAPE", "a tensor of this shape and dtype has ", value.nbytes(),
          " bytes, ", bytes.ByteLength(), " came");
  if (value.nbytes() > 0) std::memcpy(value.mutable_data_ptr(), bytes.Data(), value.nbytes());
  auto future = std::make_shared<engine::Future>();
  future->tensor = std::move(value);
  return wrap(info.Env(), Kind::tensor, std::move(future));
}

/// { dtype, shape, data } of a tensor in host memory.
Napi::Value described(Napi::Env env, const at::Tensor& value) {
  auto result = Napi::Object::New(env);
  auto shape = Napi::Array::New(env, value.dim());
  for (int64_t axis = 0; axis < value.dim(); ++axis)
    shape.Set(static_cast<uint32_t>(axis), static_cast<double>(value.size(axis)));
  auto data = Napi::ArrayBuffer::New(env, value.nbytes());
  if (value.nbytes() > 0) std::memcpy(data.Data(), value.const_data_ptr(), value.nbytes());
  result.Set("dtype", dtype_name(value.scalar_type()));
  result.Set("shape", shape);
  result.Set("data", data);
  return result;
}

/// A copy in row-major order, taken in the order of the calls: the event loop comes to it later, when the tensor may
/// have changed. `wait`: to be called before it is looked at, where the device still writes it.
at::Tensor host_copy(const at::Tensor& tensor, std::function<void()>& wait) {
  // More is not worth the memory that a device can write to by itself, which is dear to get.
  constexpr size_t kSmall = 1 << 16;
  require_numbers(tensor, "a tensor that is read");
  const auto value = tensor.detach();
  if (!value.is_cuda() || value.nbytes() > kSmall)
    return value.to(value.options().device(at::kCPU), /*non_blocking=*/false, /*copy=*/true,
                    at::MemoryFormat::Contiguous);
  auto copy = at::empty(value.sizes(), value.options().device(at::kCPU).pinned_memory(true));
  copy.copy_(value, /*non_blocking=*/true);
  wait = cuda()->mark();
  return copy;
}

/// read(call, handle, waitOnly): Promise<{ dtype, shape, data }>, a copy; `waitOnly`: once the tensor is there, without
/// its numbers; without a handle, once all calls made before have been carried out.
Napi::Value read(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  auto deferred = std::make_shared<Napi::Promise::Deferred>(info.Env());
  const auto promise = deferred->Promise();
  engine::Futures inputs;
  if (!info[1].IsUndefined()) inputs.push_back(future(info[1], "tensor"));
  const bool barrier = inputs.empty() || info[2].ToBoolean();
  auto& engine = environment.engine();
  const auto call = environment.call(info[0]);
  environment.begin(info.Env());
  engine.read(call, inputs,
              [=, &environment, &engine](const Tensors& tensors, std::shared_ptr<const engine::CallFailure> failure) {
                at::Tensor value;
                std::function<void()> wait;
                if (!failure && barrier && cuda() != nullptr) wait = cuda()->mark();
                if (!failure && !barrier) value = host_copy(tensors[0], wait);
                const auto kept = engine.freed_between_calls(std::move(value));
                const auto settle = [&environment, deferred,
                                     kept](const std::shared_ptr<const engine::CallFailure>& reason) {
                  environment.settle([deferred, reason, kept](Napi::Env env) {
                    if (reason)
                      deferred->Reject(error(env, *reason));
                    else
                      deferred->Resolve(kept->defined() ? described(env, *kept) : env.Undefined());
                  });
                };
                if (wait)
                  engine.settle_after(call, std::move(wait), settle);
                else
                  settle(failure);
              });
  return promise;
}

Napi::Value release(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).engine().release(future(info[0], "tensor"));
  return info.Env().Undefined();
}

/// op(call, "namespace::name", overload, arguments, results): handles of its results, in order; as many as it returns,
/// unless `results` says how many tensors its lists will hold.
Napi::Value op(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  DispatchedCall dispatched(info[1].As<Napi::String>(), info[2].As<Napi::String>(), info[3].As<Napi::Array>());
  engine::Futures outputs;
  const size_t results = info[4].IsNumber() ? info[4].As<Napi::Number>().Uint32Value() : dispatched.results();
  const auto handles = new_futures(info.Env(), results, outputs);
  auto inputs = dispatched.inputs();
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [dispatched](const Tensors& tensors) { return dispatched.run(tensors); });
  return handles;
}

template <at::Tensor (*function)(const at::Tensor&)>
Napi::Value map(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  engine::Futures outputs;
  const auto handles = new_futures(info.Env(), 1, outputs);
  environment.engine().submit(environment.call(info[0]), {future(info[1], "tensor")}, outputs,
                              [](const Tensors& tensors) { return Tensors{function(tensors[0])}; });
  return handles[0u];
}

at::Tensor detached(const at::Tensor& x) { return x.detach(); }
at::Tensor as_leaf(const at::Tensor& x) { return x.detach().requires_grad_(true); }

/// backward(call, outputs, grads): grads are handles, numbers (for scalars) or null (1).
Napi::Value backward(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  auto inputs = futures(info[1], "outputs");
  const size_t count = inputs.size();
  const auto grads = info[2].As<Napi::Array>();
  for (uint32_t i = 0; i < grads.Length(); ++i) {
    const Napi::Value grad = grads[i];
    if (grad.IsNumber()) {
      inputs.push_back(std::make_shared<engine::Future>());
      inputs.back()->tensor = at::scalar_tensor(grad.As<Napi::Number>().DoubleValue(), at::kDouble);
    } else {
      inputs.push_back(grad.IsNull() ? nullptr : future(grad, "grads"));
    }
  }
  environment.engine().submit(environment.call(info[0]), std::move(inputs), {}, [count](const Tensors& tensors) {
    for (size_t i = count; i < tensors.size(); ++i) require_numbers(tensors[i], "grads[", i - count, "]");
    engine::backward(Tensors(tensors.begin(), tensors.begin() + count),
                     Tensors(tensors.begin() + count, tensors.end()));
    return Tensors();
  });
  return info.Env().Undefined();
}

}  // namespace

void export_tensors(Napi::Env env, Napi::Object exports) {
  export_function<tensor>(env, exports, "tensor");
  export_function<read>(env, exports, "read");
  export_function<release>(env, exports, "release");
  export_function<op>(env, exports, "op");
  export_function<map<detached>>(env, exports, "detach");
  export_function<map<as_leaf>>(env, exports, "leaf");
  export_function<map<engine::gradient>>(env, exports, "gradient");
  export_function<backward>(env, exports, "backward");
}

}  // namespace memformer::napi
