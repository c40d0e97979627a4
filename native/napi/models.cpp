// Models and their parameters.
#include "engine/gradients.h"
#include "napi/devices.h"
#include "napi/exports.h"
#include "napi/model_handle.h"

namespace memformer::napi {

namespace {

using engine::Futures;
using engine::Tensors;
using nn::Model;

Napi::Array shape_array(Napi::Env env, at::IntArrayRef sizes) {
  auto shape = Napi::Array::New(env, sizes.size());
  for (size_t axis = 0; axis < sizes.size(); ++axis)
    shape.Set(static_cast<uint32_t>(axis), static_cast<double>(sizes[axis]));
  return shape;
}

/// { name, shape, dtype, differentiable }[]
Napi::Array layout_array(Napi::Env env, const nn::StateLayout& layout) {
  auto parts = Napi::Array::New(env);
  for (const auto& part : layout) {
    auto entry = Napi::Object::New(env);
    entry.Set("name", part.name);
    entry.Set("shape", shape_array(env, part.shape));
    entry.Set("dtype", dtype_name(part.dtype));
    entry.Set("differentiable", part.differentiable);
    parts.Set(parts.Length(), entry);
  }
  return parts;
}

/// A parameter that JavaScript adds to those that a model makes itself: drawn from N(value, deviation^2).
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  bool decay;
  double deviation, value;
};

std::vector<ParameterSpec> parameter_specs(const Napi::Value& given) {
  std::vector<ParameterSpec> specs;
  if (!given.IsArray()) return specs;
  const auto list = given.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto spec = list.Get(i).As<Napi::Object>();
    specs.push_back({spec.Get("name").As<Napi::String>(), integers(spec.Get("shape")),
                     spec.Get("decay").As<Napi::Boolean>(), spec.Get("deviation").As<Napi::Number>(),
                     spec.Get("value").As<Napi::Number>()});
  }
  return specs;
}

void add_parameters(nn::Parameters& parameters, const std::vector<ParameterSpec>& specs) {
  using Decay = nn::Parameters::Decay;
  for (const auto& spec : specs) {
    const auto start = parameters.normal(spec.name, spec.shape, spec.deviation, spec.decay ? Decay::yes : Decay::no);
    at::NoGradGuard no_grad;
    at::Tensor(start).add_(spec.value);
  }
}

/// createModel(call, name, config, seed, device, parameters?): Promise<{ model, stateLayout: { name, shape, dtype,
/// differentiable }[], parameters: { name, shape, decay }[] }>. parameters: see ParameterSpec.
Napi::Value create_model(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  auto deferred = std::make_shared<Napi::Promise::Deferred>(info.Env());
  const auto promise = deferred->Promise();
  const std::string name = info[1].As<Napi::String>();
  auto settings = config(info[2]);
  const auto seed = static_cast<uint64_t>(info[3].As<Napi::Number>().Int64Value());
  const at::Device device(info[4].As<Napi::String>().Utf8Value());
  auto specs = parameter_specs(info[5]);
  auto& engine = environment.engine();
  environment.begin(info.Env());
  engine.read(environment.call(info[0]), {},
              [&environment, deferred, name, settings = std::move(settings), specs = std::move(specs), seed, device](
                  const Tensors&, std::shared_ptr<const engine::CallFailure> failure) {
                std::shared_ptr<Model> model;
                if (!failure) {
                  compute_on(device);
                  model = nn::models().make(name, settings, seed);
                  add_parameters(model->parameters(), specs);
                  model->to(device);
                }
                environment.settle([deferred, failure, model, device](Napi::Env env) {
                  if (failure) return deferred->Reject(error(env, *failure));
                  auto result = Napi::Object::New(env);
                  auto parameters = Napi::Array::New(env);
                  for (const auto& parameter : model->parameters().all()) {
                    auto entry = Napi::Object::New(env);
                    entry.Set("name", parameter.name);
                    entry.Set("shape", shape_array(env, parameter.value.sizes()));
                    entry.Set("decay", parameter.decay);
                    parameters.Set(parameters.Length(), entry);
                  }
                  result.Set("model",
                             wrap(env, Kind::model,
                                  std::make_shared<ModelHandle>(ModelHandle{model, engine::Steps(model), device})));
                  result.Set("stateLayout", layout_array(env, model->state_layout()));
                  result.Set("parameters", parameters);
                  deferred->Resolve(result);
                });
              });
  return promise;
}

/// parameter(call, model, name) and parameterGradient(call, model, name): [tensor]
template <bool of_gradient>
Napi::Value parameter(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_on_model(info, {}, 1, [name](ModelHandle& held, const Tensors&) {
    const auto& parameters = held.model->parameters();
    return Tensors{of_gradient ? engine::parameter_gradient(parameters, name) : parameters.at(name).detach()};
  });
}

/// parameterLeaf(call, model, name): [tensor], the parameter itself: what is computed of it sends gradients to it. The
/// first that arrives makes room for all.
Napi::Value parameter_leaf(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_on_model(info, {}, 1, [name](ModelHandle& held, const Tensors&) {
    const auto leaf = held.model->parameters().at(name);
    if (!held.model->parameters().has_gradients() && torch::autograd::impl::hooks(leaf).empty())
      leaf.register_hook([weak = std::weak_ptr(held.model)](const at::Tensor&) {
        if (const auto model = weak.lock()) model->parameters().gradients();
      });
    return Tensors{leaf};
  });
}

/// assign(call, model, name, tensor): copies into the parameter.
Napi::Value assign(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_on_model(info, {future(info[3], "tensor")}, 0, [name](ModelHandle& held, const Tensors& tensors) {
    require_numbers(tensors[0], "'", name, "'");
    held.model->parameters().assign(name, tensors[0]);
    return Tensors();
  });
}

Napi::Value zero_gradients(const Napi::CallbackInfo& info) {
  return enqueue_on_model(info, {}, 0, [](ModelHandle& held, const Tensors&) {
    engine::zero_gradients(held.model->parameters());
    return Tensors();
  });
}

/// clipGradients(call, model, most, whole?): [norm]
Napi::Value clip_gradients(const Napi::CallbackInfo& info) {
  const double most = info[2].As<Napi::Number>().DoubleValue();
  Futures whole;
  if (!info[3].IsUndefined()) whole.push_back(future(info[3], "whole"));
  return enqueue_on_model(info, whole, 1, [most](ModelHandle& held, const Tensors& tensors) {
    const auto norm = tensors.empty() ? at::Tensor() : brought_to(held.device, tensors[0], "whole");
    return Tensors{engine::clip_gradients(held.model->parameters(), most, norm)};
  });
}

/// dropModel(model): freed when the calls made before have run.
Napi::Value drop_model(const Napi::CallbackInfo& info) {
  let_go<ModelHandle>(info[0], Kind::model, "model");
  return info.Env().Undefined();
}

}  // namespace

void export_models(Napi::Env env, Napi::Object exports) {
  export_function<create_model>(env, exports, "createModel");
  export_function<drop_model>(env, exports, "dropModel");
  export_function<parameter<false>>(env, exports, "parameter");
  export_function<parameter<true>>(env, exports, "parameterGradient");
  export_function<parameter_leaf>(env, exports, "parameterLeaf");
  export_function<assign>(env, exports, "assign");
  export_function<zero_gradients>(env, exports, "zeroGradients");
  export_function<clip_gradients>(env, exports, "clipGradients");
}

}  // namespace memformer::napi
