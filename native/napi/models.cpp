// Models, their steps, their parameters.
#include <sstream>

#include "engine/gradients.h"
#include "engine/threads.h"
#include "napi/devices.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/graph_facts.h"
#include "napi/model_handle.h"

namespace memformer::napi {

nn::SegmentInput segment_of(const ModelHandle& held, const at::Tensor* parts, bool training) {
  for (size_t i = 0;
       const char* name : {"segment.source", "segment.target", "segment.reset", "seed", "segment.lengths"})
    require_numbers(parts[i++], name);
  engine::use_threads_for(parts[0].size(0) * parts[0].size(1) * held.model->parameters().count());
  return {parts[0], parts[1], parts[2], parts[3], parts[4], training};
}

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
                  if (!device.is_cpu()) model->to(device);
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

/// Enqueues work(held, tensors) over `inputs` and returns the handles of its `count` results.
template <typename Work>
Napi::Value enqueue(const Napi::CallbackInfo& info, Futures inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  Futures outputs;
  const auto handles = new_futures(info.Env(), count, outputs);
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [held = model_of(info[1]), work = std::move(work)](const Tensors& tensors) {
                                compute_on(held->device);
                                return work(*held, tensors);
                              });
  return handles;
}

/// initialState(call, model, rows): handles of the state.
Napi::Value initial_state(const Napi::CallbackInfo& info) {
  const auto rows = info[2].As<Napi::Number>().Int64Value();
  return enqueue(info, {}, model_of(info[1])->steps.layout().size(), [rows](ModelHandle& held, const Tensors&) {
    at::NoGradGuard no_grad;
    return held.model->initial_state(rows);
  });
}

using Place = Tensors::const_iterator;

/// The tensors from `begin` to `end` on the model's device.
Tensors brought_to_model(const ModelHandle& held, Place begin, Place end, const char* argument) {
  Tensors brought;
  for (auto tensor = begin; tensor != end; ++tensor)
    brought.push_back(brought_to(held.device, *tensor, argument, "[", tensor - begin, "]"));
  return brought;
}

/// A segment from JavaScript: [source, target, reset, seed, lengths] handles and a flag; the state's handles follow the
/// five.
struct StepArguments {
  explicit StepArguments(const Napi::CallbackInfo& info)
      : training(info[3].As<Napi::Boolean>()), inputs(futures(info[2], "segment")) {
    require(inputs.size() == kSegmentParts, "NATIVE", "a segment is five tensors, got ", inputs.size());
    for (auto& part : futures(info[4], "state")) inputs.push_back(std::move(part));
  }

  /// The segment among the tensors.
  nn::SegmentInput segment(const ModelHandle& held, const Tensors& tensors) const {
    return segment_of(held, tensors.data(), training);
  }
  /// The same on the model's device.
  nn::SegmentInput moved(const ModelHandle& held, const Tensors& tensors) const {
    return engine::on_device(segment(held, tensors), held.device);
  }
  /// The state on the model's device, so that one from a file or of another model's is taken too.
  static nn::State state(const ModelHandle& held, const Tensors& tensors, size_t extra = 0) {
    return brought_to_model(held, tensors.begin() + kSegmentParts, tensors.end() - extra, "state");
  }

  bool training;
  Futures inputs;
};

/// forward(call, model, segment, training, state, withGraph): [loss, count, ...state]
Napi::Value forward(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[5].As<Napi::Boolean>();
  const size_t count = 2 + step.inputs.size() - kSegmentParts;
  return enqueue(info, step.inputs, count, [step, with_graph](ModelHandle& held, const Tensors& tensors) {
    at::AutoGradMode grad_mode(with_graph);
    auto outputs = held.model->forward({step.moved(held, tensors)}, StepArguments::state(held, tensors));
    Tensors results{outputs.total, outputs.count.squeeze(0)};
    results.insert(results.end(), outputs.state.begin(), outputs.state.end());
    return results;
  });
}

/// encode(call, model, segment, training, state, withGraph): [hidden, ...state]
Napi::Value encode(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[5].As<Napi::Boolean>();
  const size_t count = 1 + step.inputs.size() - kSegmentParts;
  return enqueue(info, step.inputs, count, [step, with_graph](ModelHandle& held, const Tensors& tensors) {
    at::AutoGradMode grad_mode(with_graph);
    auto encoding = held.model->encode(step.moved(held, tensors), StepArguments::state(held, tensors));
    Tensors results{encoding.hidden.to(held.model->parameters().dtype())};
    results.insert(results.end(), encoding.state.begin(), encoding.state.end());
    return results;
  });
}

/// observe(call, model, segment, training, state): [names, values]: JSON of [name, shape] pairs as uint8, and all their
/// numbers one behind the other in float32.
Napi::Value observe(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  return enqueue(info, step.inputs, 2, [step](ModelHandle& held, const Tensors& tensors) {
    const auto seen = held.model->observe(step.moved(held, tensors), StepArguments::state(held, tensors));
    std::ostringstream names;
    Tensors values;
    for (const auto& [name, value] : seen.parts) {
      names << (values.empty() ? "[" : ",") << "[\"" << name << "\",[";
      for (int64_t axis = 0; axis < value.dim(); ++axis) names << (axis == 0 ? "" : ",") << value.size(axis);
      names << "]]";
      values.push_back(value.reshape({-1}));
    }
    names << (values.empty() ? "[]" : "]");
    const auto text = names.str();
    const auto bytes =
        at::from_blob(const_cast<char*>(text.data()), {static_cast<int64_t>(text.size())}, at::kByte).clone();
    return Tensors{bytes, at::cat(values)};
  });
}

/// advance(call, model, segment, training, state): the next state alone, without gradient.
Napi::Value advance(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  return enqueue(info, step.inputs, step.inputs.size() - kSegmentParts,
                 [step](ModelHandle& held, const Tensors& tensors) {
                   return held.steps.advance(step.segment(held, tensors), StepArguments::state(held, tensors));
                 });
}

/// replay(call, model, segments, training, state, weights, gradient, last): [losses (G), counts (G), ...state,
/// ...dL/dstate], the state only with `last`; gradients are of the differentiable parts. segments: five handles each;
/// weights: a number each.
Napi::Value replay(const Napi::CallbackInfo& info) {
  auto inputs = futures(info[2], "segments");
  const bool training = info[3].As<Napi::Boolean>(), last = info[7].As<Napi::Boolean>();
  const auto state = futures(info[4], "state"), gradient = futures(info[6], "gradient");
  const auto weights = numbers(info[5]);
  require(inputs.size() == kSegmentParts * weights.size() && !weights.empty(), "NATIVE",
          "a segment is five tensors, got ", inputs.size(), " for ", weights.size());
  const size_t first = inputs.size(), states = state.size();
  inputs.insert(inputs.end(), state.begin(), state.end());
  inputs.insert(inputs.end(), gradient.begin(), gradient.end());
  const size_t gradients = nn::differentiable_parts(model_of(info[1])->steps.layout());
  return enqueue(info, inputs, 2 + (last ? states : 0) + gradients, [=](ModelHandle& held, const Tensors& tensors) {
    std::vector<nn::SegmentInput> segments;
    for (size_t g = 0; g < weights.size(); ++g)
      segments.push_back(segment_of(held, tensors.data() + kSegmentParts * g, training));
    const auto after = tensors.begin() + first + states;
    auto replayed = held.steps.replay(segments, brought_to_model(held, tensors.begin() + first, after, "state"),
                                      at::tensor(weights, at::kDouble).to(held.model->parameters().dtype()),
                                      brought_to_model(held, after, tensors.end(), "gradient"), last);
    Tensors results{replayed.loss, replayed.count};
    results.insert(results.end(), replayed.state.begin(), replayed.state.end());
    results.insert(results.end(), replayed.gradient.begin(), replayed.gradient.end());
    return results;
  });
}

/// score(call, model, segments, ablations, state, held): [losses (1 + A, G), counts (G), ...state, ...held]; see
/// Steps::score.
Napi::Value score(const Napi::CallbackInfo& info) {
  auto inputs = futures(info[2], "segments");
  const auto names = info[3].As<Napi::Array>();
  require(inputs.size() % kSegmentParts == 0 && !inputs.empty(), "NATIVE", "a segment is five tensors, got ",
          inputs.size());
  std::vector<std::string> ablations;
  for (uint32_t i = 0; i < names.Length(); ++i) ablations.push_back(names.Get(i).As<Napi::String>());
  const bool frozen = std::find(ablations.begin(), ablations.end(), "frozen") != ablations.end();
  const auto state = futures(info[4], "state"), held = futures(info[5], "held");
  const size_t first = inputs.size(), states = state.size();
  inputs.insert(inputs.end(), state.begin(), state.end());
  inputs.insert(inputs.end(), held.begin(), held.end());
  // One call is all of a step's memories: an abort does not wait for them.
  const auto between = [cancel = Environment::of(info.Env()).cancel] {
    require(!cancel || !cancel->load(std::memory_order_relaxed), "ABORTED", "the operation was aborted");
  };
  return enqueue(info, inputs, 2 + states + (frozen ? states + 1 : 0), [=](ModelHandle& model, const Tensors& tensors) {
    std::vector<nn::SegmentInput> segments;
    for (size_t part = 0; part < first; part += kSegmentParts)
      segments.push_back(segment_of(model, tensors.data() + part, false));
    const auto after = tensors.begin() + first + states;
    auto scores = model.steps.score(segments, brought_to_model(model, tensors.begin() + first, after, "state"),
                                    brought_to_model(model, after, tensors.end(), "held"), ablations, between);
    Tensors results{scores.loss, scores.count};
    results.insert(results.end(), scores.state.begin(), scores.state.end());
    results.insert(results.end(), scores.held.state.begin(), scores.held.state.end());
    if (frozen) results.push_back(scores.held.holds);
    return results;
  });
}

/// capturedGraphs(call, model): Promise<{ steps, refusal }>
Napi::Value captured_graphs(const Napi::CallbackInfo& info) {
  return graph_facts(info, [held = model_of(info[1])] { return &held->steps.graphs(); });
}

/// logits(call, model, segment, training, state, prefix): [(B, V)]
Napi::Value logits(const Napi::CallbackInfo& info) {
  StepArguments step(info);
  auto inputs = step.inputs;
  inputs.push_back(future(info[5], "prefix"));
  return enqueue(info, inputs, 1, [step](ModelHandle& held, const Tensors& tensors) {
    at::NoGradGuard no_grad;
    return Tensors{held.model->logits(step.moved(held, tensors),
                                      brought_to(held.device, tensors.back(), "prefix").to(at::kLong),
                                      StepArguments::state(held, tensors, 1))};
  });
}

/// setGraphCapture(call, model, enabled): whether steps are recorded on a GPU.
Napi::Value set_graph_capture(const Napi::CallbackInfo& info) {
  const bool enabled = info[2].As<Napi::Boolean>();
  return enqueue(info, {}, 0, [enabled](ModelHandle& held, const Tensors&) {
    held.steps.graphs().enable(enabled);
    return Tensors();
  });
}

/// parameter(call, model, name) and parameterGradient(call, model, name): [tensor]
template <bool of_gradient>
Napi::Value parameter(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue(info, {}, 1, [name](ModelHandle& held, const Tensors&) {
    const auto& parameters = held.model->parameters();
    return Tensors{of_gradient ? engine::parameter_gradient(parameters, name) : parameters.at(name).detach()};
  });
}

/// parameterLeaf(call, model, name): [tensor], the parameter itself: what is computed of it sends gradients to it.
Napi::Value parameter_leaf(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue(info, {}, 1,
                 [name](ModelHandle& held, const Tensors&) { return Tensors{held.model->parameters().at(name)}; });
}

/// assign(call, model, name, tensor): copies into the parameter.
Napi::Value assign(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue(info, {future(info[3], "tensor")}, 0, [name](ModelHandle& held, const Tensors& tensors) {
    require_numbers(tensors[0], "'", name, "'");
    held.model->parameters().assign(name, tensors[0]);
    return Tensors();
  });
}

Napi::Value zero_gradients(const Napi::CallbackInfo& info) {
  return enqueue(info, {}, 0, [](ModelHandle& held, const Tensors&) {
    engine::zero_gradients(held.model->parameters());
    return Tensors();
  });
}

/// clipGradients(call, model, most, whole?): [norm]
Napi::Value clip_gradients(const Napi::CallbackInfo& info) {
  const double most = info[2].As<Napi::Number>().DoubleValue();
  Futures whole;
  if (!info[3].IsUndefined()) whole.push_back(future(info[3], "whole"));
  return enqueue(info, whole, 1, [most](ModelHandle& held, const Tensors& tensors) {
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
  export_function<initial_state>(env, exports, "initialState");
  export_function<forward>(env, exports, "forward");
  export_function<encode>(env, exports, "encode");
  export_function<advance>(env, exports, "advance");
  export_function<observe>(env, exports, "observe");
  export_function<replay>(env, exports, "replay");
  export_function<score>(env, exports, "score");
  export_function<logits>(env, exports, "logits");
  export_function<set_graph_capture>(env, exports, "setGraphCapture");
  export_function<captured_graphs>(env, exports, "capturedGraphs");
  export_function<parameter<false>>(env, exports, "parameter");
  export_function<parameter<true>>(env, exports, "parameterGradient");
  export_function<parameter_leaf>(env, exports, "parameterLeaf");
  export_function<assign>(env, exports, "assign");
  export_function<zero_gradients>(env, exports, "zeroGradients");
  export_function<clip_gradients>(env, exports, "clipGradients");
}

}  // namespace memformer::napi
