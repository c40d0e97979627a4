// Models, their parameters, the optimizer.
#include "engine/adamw.h"
#include "engine/gradients.h"
#include "engine/threads.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "nn/models/model.h"

namespace memformer::napi {
namespace {

using engine::Slots;
using engine::Tensors;
using nn::Model;

std::shared_ptr<Model> model_of(const Napi::Value& value) { return unwrap<Model>(value, Kind::model, "model"); }

/// An optimizer keeps its model alive: it holds the parameters by reference.
struct Optimizer {
  std::shared_ptr<Model> model;
  engine::AdamW::Options options;
  std::optional<engine::AdamW> made;

  /// Made by the engine's thread when it first needs it: filling tensors on this one would start a second OpenMP team.
  engine::AdamW& adamw() {
    if (!made) made.emplace(model->parameters(), options);
    return *made;
  }
};

/// createModel(call, name, config, seed): Promise<{ model, stateSize, parameters: { name, shape, decay }[] }>
Napi::Value create_model(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  auto deferred = std::make_shared<Napi::Promise::Deferred>(info.Env());
  const auto promise = deferred->Promise();
  const std::string name = info[1].As<Napi::String>();
  auto settings = config(info[2]);
  const auto seed = static_cast<uint64_t>(info[3].As<Napi::Number>().Int64Value());
  auto& engine = environment.engine();
  environment.begin(info.Env());
  engine.read(environment.call(info[0]), {}, [&environment, deferred, name, settings = std::move(settings), seed](
                                                 const Tensors&, std::shared_ptr<const engine::CallFailure> failure) {
    std::shared_ptr<Model> model;
    size_t state_size = 0;
    if (!failure) {
      model = nn::models().make(name, settings, seed);
      at::NoGradGuard no_grad;
      state_size = model->initial_state(1).size();
    }
    environment.settle([deferred, failure, model, state_size](Napi::Env env) {
      if (failure) return deferred->Reject(error(env, *failure));
      auto result = Napi::Object::New(env);
      auto parameters = Napi::Array::New(env);
      for (const auto& parameter : model->parameters().all()) {
        auto entry = Napi::Object::New(env);
        auto shape = Napi::Array::New(env);
        for (int64_t axis = 0; axis < parameter.value.dim(); ++axis) shape.Set(static_cast<uint32_t>(axis), static_cast<double>(parameter.value.size(axis)));
        entry.Set("name", parameter.name);
        entry.Set("shape", shape);
        entry.Set("decay", parameter.decay);
        parameters.Set(parameters.Length(), entry);
      }
      result.Set("model", wrap(env, Kind::model, model));
      result.Set("stateSize", static_cast<double>(state_size));
      result.Set("parameters", parameters);
      deferred->Resolve(result);
    });
  });
  return promise;
}

/// Enqueues work(model, tensors) over `inputs` and returns the handles of its `count` results.
template <typename Work>
Napi::Value enqueue(const Napi::CallbackInfo& info, Slots inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  Slots outputs;
  const auto handles = new_slots(info.Env(), count, outputs);
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [model = model_of(info[1]), work = std::move(work)](const Tensors& tensors) { return work(*model, tensors); });
  return handles;
}

/// initialState(call, model, rows, stateSize): handles of the state.
Napi::Value initial_state(const Napi::CallbackInfo& info) {
  const auto rows = info[2].As<Napi::Number>().Int64Value();
  return enqueue(info, {}, info[3].As<Napi::Number>().Uint32Value(), [rows](Model& model, const Tensors&) {
    at::NoGradGuard no_grad;
    return model.initial_state(rows);
  });
}

/// A segment from JavaScript: [source, target, reset, seed] handles and two flags; the state's handles follow the four.
struct StepArguments {
  explicit StepArguments(const Napi::CallbackInfo& info)
      : padded(info[3].As<Napi::Boolean>()), training(info[4].As<Napi::Boolean>()), inputs(slots(info[2], "segment")) {
    require(inputs.size() == 4, "NATIVE", "a segment is four tensors, got ", inputs.size());
    for (auto& part : slots(info[5], "state")) inputs.push_back(std::move(part));
  }

  /// The segment among the tensors; from here on the engine computes with the threads that its size is worth.
  nn::SegmentInput segment(const Model& model, const Tensors& tensors) const {
    engine::use_threads_for(tensors[0].size(0) * tensors[0].size(1) * model.parameters().count());
    const auto whole = [](const at::Tensor& tokens) { return tokens.is_floating_point() ? tokens : tokens.to(at::kLong); };
    return {whole(tensors[0]), tensors[1].to(at::kLong), tensors[2].to(at::kBool), tensors[3], padded, training};
  }
  static nn::State state(const Tensors& tensors, size_t extra = 0) { return nn::State(tensors.begin() + 4, tensors.end() - extra); }

  bool padded, training;
  Slots inputs;
};

/// forward(call, model, segment, padded, training, state, withGraph): [loss, count, ...state]
Napi::Value forward(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[6].As<Napi::Boolean>();
  const size_t count = 2 + step.inputs.size() - 4;
  return enqueue(info, step.inputs, count, [step, with_graph](Model& model, const Tensors& tensors) {
    at::AutoGradMode grad_mode(with_graph);
    auto outputs = model.forward(step.segment(model, tensors), StepArguments::state(tensors));
    Tensors results{outputs.loss, outputs.count};
    results.insert(results.end(), outputs.state.begin(), outputs.state.end());
    return results;
  });
}

/// encode(call, model, segment, padded, training, state, withGraph): [hidden, ...state]
Napi::Value encode(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[6].As<Napi::Boolean>();
  const size_t count = 1 + step.inputs.size() - 4;
  return enqueue(info, step.inputs, count, [step, with_graph](Model& model, const Tensors& tensors) {
    at::AutoGradMode grad_mode(with_graph);
    auto encoding = model.encode(step.segment(model, tensors), StepArguments::state(tensors));
    Tensors results{encoding.hidden};
    results.insert(results.end(), encoding.state.begin(), encoding.state.end());
    return results;
  });
}

/// advance(call, model, segment, padded, training, state): the next state alone, without gradient.
Napi::Value advance(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  return enqueue(info, step.inputs, step.inputs.size() - 4, [step](Model& model, const Tensors& tensors) {
    at::NoGradGuard no_grad;
    return model.encode(step.segment(model, tensors), StepArguments::state(tensors)).state;
  });
}

/// logits(call, model, segment, padded, training, state, prefix): [(B, V)]
Napi::Value logits(const Napi::CallbackInfo& info) {
  StepArguments step(info);
  auto inputs = step.inputs;
  inputs.push_back(slot(info[6], "prefix"));
  return enqueue(info, inputs, 1, [step](Model& model, const Tensors& tensors) {
    at::NoGradGuard no_grad;
    return Tensors{model.logits(step.segment(model, tensors), tensors.back().to(at::kLong), StepArguments::state(tensors, 1))};
  });
}

/// parameter(call, model, name) and parameterGradient(call, model, name): [tensor]
template <bool of_gradient>
Napi::Value parameter(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue(info, {}, 1, [name](Model& model, const Tensors&) {
    const auto value = model.parameters().at(name);
    return Tensors{of_gradient ? engine::gradient(value).detach() : value.detach()};
  });
}

void copy_into(const std::string& name, at::Tensor target, const at::Tensor& source) {
  at::NoGradGuard no_grad;
  require(target.sizes() == source.sizes(), "SHAPE", "'", name, "' has shape ", target.sizes(), ", got ", source.sizes());
  target.copy_(source);
}

/// assign(call, model, name, tensor): copies into the parameter.
Napi::Value assign(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue(info, {slot(info[3], "tensor")}, 0, [name](Model& model, const Tensors& tensors) {
    copy_into(name, model.parameters().at(name), tensors[0]);
    return Tensors();
  });
}

Napi::Value zero_gradients(const Napi::CallbackInfo& info) {
  return enqueue(info, {}, 0, [](Model& model, const Tensors&) {
    engine::zero_gradients(model.parameters());
    return Tensors();
  });
}

/// clipGradients(call, model, most): [norm]
Napi::Value clip_gradients(const Napi::CallbackInfo& info) {
  const double most = info[2].As<Napi::Number>().DoubleValue();
  return enqueue(info, {}, 1, [most](Model& model, const Tensors&) { return Tensors{engine::clip_gradients(model.parameters(), most)}; });
}

/// createAdamW(model, beta1, beta2, eps, weightDecay)
Napi::Value create_adamw(const Napi::CallbackInfo& info) {
  const auto number = [&](size_t i) { return info[i].As<Napi::Number>().DoubleValue(); };
  const engine::AdamW::Options options{number(1), number(2), number(3), number(4)};
  return wrap(info.Env(), Kind::optimizer, std::make_shared<Optimizer>(Optimizer{model_of(info[0]), options, std::nullopt}));
}

template <typename Work>
Napi::Value enqueue_optimizer(const Napi::CallbackInfo& info, Slots inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  Slots outputs;
  const auto handles = new_slots(info.Env(), count, outputs);
  auto optimizer = unwrap<Optimizer>(info[1], Kind::optimizer, "optimizer");
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [optimizer, work = std::move(work)](const Tensors& tensors) { return work(optimizer->adamw(), tensors); });
  return handles;
}

/// dropModel(model), dropAdamW(optimizer): freed when the calls made before have run.
Napi::Value drop_model(const Napi::CallbackInfo& info) {
  let_go<Model>(info[0], Kind::model, "model");
  return info.Env().Undefined();
}
Napi::Value drop_adamw(const Napi::CallbackInfo& info) {
  let_go<Optimizer>(info[0], Kind::optimizer, "optimizer");
  return info.Env().Undefined();
}

/// adamwStep(call, optimizer, rate, norm)
Napi::Value adamw_step(const Napi::CallbackInfo& info) {
  const double rate = info[2].As<Napi::Number>().DoubleValue();
  return enqueue_optimizer(info, {slot(info[3], "norm")}, 0, [rate](engine::AdamW& adamw, const Tensors& tensors) {
    adamw.step(rate, tensors[0]);
    return Tensors();
  });
}

at::Tensor state_of(const engine::AdamW& adamw, const std::string& name) {
  const auto state = adamw.state();
  const auto found = state.find(name);
  require(found != state.end(), "CONFIG", "the optimizer has no state '", name, "'");
  return found->second;
}

/// adamwState(call, optimizer, name): [tensor]
Napi::Value adamw_state(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_optimizer(info, {}, 1, [name](engine::AdamW& adamw, const Tensors&) { return Tensors{state_of(adamw, name)}; });
}

/// adamwAssign(call, optimizer, name, tensor)
Napi::Value adamw_assign(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_optimizer(info, {slot(info[3], "tensor")}, 0, [name](engine::AdamW& adamw, const Tensors& tensors) {
    copy_into(name, state_of(adamw, name), tensors[0]);
    return Tensors();
  });
}

}  // namespace

void export_models(Napi::Env env, Napi::Object exports) {
  export_function<create_model>(env, exports, "createModel");
  export_function<drop_model>(env, exports, "dropModel");
  export_function<initial_state>(env, exports, "initialState");
  export_function<forward>(env, exports, "forward");
  export_function<encode>(env, exports, "encode");
  export_function<advance>(env, exports, "advance");
  export_function<logits>(env, exports, "logits");
  export_function<parameter<false>>(env, exports, "parameter");
  export_function<parameter<true>>(env, exports, "parameterGradient");
  export_function<assign>(env, exports, "assign");
  export_function<zero_gradients>(env, exports, "zeroGradients");
  export_function<clip_gradients>(env, exports, "clipGradients");
  export_function<create_adamw>(env, exports, "createAdamW");
  export_function<drop_adamw>(env, exports, "dropAdamW");
  export_function<adamw_step>(env, exports, "adamwStep");
  export_function<adamw_state>(env, exports, "adamwState");
  export_function<adamw_assign>(env, exports, "adamwAssign");
}

}  // namespace memformer::napi
