// A model's steps, as JavaScript calls them: (call, model, segment, state, ...), see segment_handle.h.
#include <sstream>

#include "napi/devices.h"
#include "napi/exports.h"
#include "napi/graph_facts.h"
#include "napi/segment_handle.h"

namespace memformer::napi {
namespace {

using engine::Futures;
using engine::Tensors;

/// initialState(call, model, rows): handles of the state.
Napi::Value initial_state(const Napi::CallbackInfo& info) {
  const auto rows = info[2].As<Napi::Number>().Int64Value();
  return enqueue_on_model(info, {}, model_of(info[1])->steps.layout().size(),
                          [rows](ModelHandle& held, const Tensors&) {
                            at::NoGradGuard no_grad;
                            return held.model->initial_state(rows);
                          });
}

/// What a call of one step begins with: its segment and the state before it.
struct StepArguments {
  explicit StepArguments(const Napi::CallbackInfo& info)
      : segment_(info[2], inputs), state_(info[3], "state", inputs) {}

  size_t states() const { return state_.size(); }
  /// On the model's device.
  nn::SegmentInput segment(const ModelHandle& held, const Tensors& tensors) const {
    return engine::on_device(segment_.read(held, tensors), held.device);
  }
  nn::State state(const ModelHandle& held, const Tensors& tensors) const { return state_.on_model(held, tensors); }

  Futures inputs;

 private:
  SegmentHandle segment_;
  TensorRange state_;
};

/// forward(call, model, segment, state, withGraph): [loss, count, ...state]
Napi::Value forward(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[4].As<Napi::Boolean>();
  return enqueue_on_model(
      info, step.inputs, 2 + step.states(), [step, with_graph](ModelHandle& held, const Tensors& tensors) {
        at::AutoGradMode grad_mode(with_graph);
        auto outputs = held.model->forward({step.segment(held, tensors)}, step.state(held, tensors));
        Tensors results{outputs.total, outputs.count.squeeze(0)};
        results.insert(results.end(), outputs.state.begin(), outputs.state.end());
        return results;
      });
}

/// encode(call, model, segment, state, withGraph): [hidden, ...state]
Napi::Value encode(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  const bool with_graph = info[4].As<Napi::Boolean>();
  return enqueue_on_model(info, step.inputs, 1 + step.states(),
                          [step, with_graph](ModelHandle& held, const Tensors& tensors) {
                            at::AutoGradMode grad_mode(with_graph);
                            auto encoding = held.model->encode(step.segment(held, tensors), step.state(held, tensors));
                            Tensors results{encoding.hidden.to(held.model->parameters().dtype())};
                            results.insert(results.end(), encoding.state.begin(), encoding.state.end());
                            return results;
                          });
}

/// observe(call, model, segment, state, wanted): [names, values]: JSON of [name, shape] pairs as uint8, and all their
/// numbers one behind the other in float32. wanted: names, none for all that there are.
Napi::Value observe(const Napi::CallbackInfo& info) {
  const StepArguments step(info);
  std::vector<std::string> wanted;
  const auto given = info[4].As<Napi::Array>();
  for (uint32_t i = 0; i < given.Length(); ++i) wanted.push_back(given.Get(i).As<Napi::String>());
  return enqueue_on_model(info, step.inputs, 2, [step, wanted](ModelHandle& held, const Tensors& tensors) {
    const auto seen = held.model->observe(step.segment(held, tensors), step.state(held, tensors), wanted);
    std::ostringstream names;
    Tensors values;
    for (const auto& [name, value] : seen.parts()) {
      names << (values.empty() ? "[" : ",") << "[\"" << name << "\",[";
      for (int64_t axis = 0; axis < value.dim(); ++axis) names << (axis == 0 ? "" : ",") << value.size(axis);
      names << "]]";
      values.push_back(value.reshape({-1}));
    }
    names << (values.empty() ? "[]" : "]");
    const auto text = names.str();
    const auto bytes =
        at::from_blob(const_cast<char*>(text.data()), {static_cast<int64_t>(text.size())}, at::kByte).clone();
    return Tensors{bytes, values.empty() ? at::empty({0}, at::kFloat) : at::cat(values)};
  });
}

/// advance(call, model, segments, state): the state after the last segment alone, without gradient.
Napi::Value advance(const Napi::CallbackInfo& info) {
  Futures inputs;
  const SegmentHandles segments(info[2], inputs);
  const TensorRange state(info[3], "state", inputs);
  return enqueue_on_model(info, inputs, state.size(), [=](ModelHandle& held, const Tensors& tensors) {
    return held.steps.advance(segments.read(held, tensors), state.on_model(held, tensors));
  });
}

/// replay(call, model, segments, state, weights, gradient, last): [losses (G), counts (G), ...state, ...dL/dstate], the
/// state only with `last`; gradients are of the differentiable parts. weights: a number per segment.
Napi::Value replay(const Napi::CallbackInfo& info) {
  Futures inputs;
  const SegmentHandles segments(info[2], inputs);
  const TensorRange state(info[3], "state", inputs), gradient(info[5], "gradient", inputs);
  const auto weights = numbers(info[4]);
  const bool last = info[6].As<Napi::Boolean>();
  require(segments.size() == weights.size(), "NATIVE", "a segment has a weight, got ", weights.size(), " for ",
          segments.size());
  const size_t gradients = nn::differentiable_parts(model_of(info[1])->steps.layout());
  const size_t count = 2 + (last ? state.size() : 0) + gradients;
  return enqueue_on_model(info, inputs, count, [=](ModelHandle& held, const Tensors& tensors) {
    auto replayed = held.steps.replay(segments.read(held, tensors), state.on_model(held, tensors),
                                      at::tensor(weights, at::kDouble).to(held.model->parameters().dtype()),
                                      gradient.on_model(held, tensors), last);
    Tensors results{replayed.loss, replayed.count};
    results.insert(results.end(), replayed.state.begin(), replayed.state.end());
    results.insert(results.end(), replayed.gradient.begin(), replayed.gradient.end());
    return results;
  });
}

/// score(call, model, segments, state, held, ablations): [losses (1 + A, G), counts (G), ...state, ...held]; see
/// Steps::score.
Napi::Value score(const Napi::CallbackInfo& info) {
  Futures inputs;
  const SegmentHandles segments(info[2], inputs);
  const TensorRange state(info[3], "state", inputs), frozen(info[4], "held", inputs);
  const auto names = info[5].As<Napi::Array>();
  std::vector<std::string> ablations;
  for (uint32_t i = 0; i < names.Length(); ++i) ablations.push_back(names.Get(i).As<Napi::String>());
  const bool freezes = std::find(ablations.begin(), ablations.end(), "frozen") != ablations.end();
  // One call is all of a step's memories: an abort does not wait for them.
  const auto between = [cancel = Environment::of(info.Env()).cancel] {
    require(!cancel || !cancel->load(std::memory_order_relaxed), "ABORTED", "the operation was aborted");
  };
  const size_t count = 2 + state.size() + (freezes ? state.size() + 1 : 0);
  return enqueue_on_model(info, inputs, count, [=](ModelHandle& held, const Tensors& tensors) {
    auto scores = held.steps.score(segments.read(held, tensors), state.on_model(held, tensors),
                                   frozen.on_model(held, tensors), ablations, between);
    Tensors results{scores.loss, scores.count};
    results.insert(results.end(), scores.state.begin(), scores.state.end());
    results.insert(results.end(), scores.held.state.begin(), scores.held.state.end());
    if (freezes) results.push_back(scores.held.holds);
    return results;
  });
}

/// capturedGraphs(call, model): Promise<{ steps, refusal }>
Napi::Value captured_graphs(const Napi::CallbackInfo& info) {
  return graph_facts(info, [held = model_of(info[1])] { return &held->steps.graphs(); });
}

/// logits(call, model, segment, state, prefix): [(B, V)]
Napi::Value logits(const Napi::CallbackInfo& info) {
  StepArguments step(info);
  step.inputs.push_back(future(info[4], "prefix"));
  return enqueue_on_model(info, step.inputs, 1, [step](ModelHandle& held, const Tensors& tensors) {
    at::NoGradGuard no_grad;
    const auto prefix = brought_to(held.device, tensors.back(), "prefix").to(at::kLong);
    return Tensors{held.model->logits(step.segment(held, tensors), prefix, step.state(held, tensors))};
  });
}

/// setGraphCapture(call, model, enabled): whether steps are recorded on a GPU.
Napi::Value set_graph_capture(const Napi::CallbackInfo& info) {
  const bool enabled = info[2].As<Napi::Boolean>();
  return enqueue_on_model(info, {}, 0, [enabled](ModelHandle& held, const Tensors&) {
    held.steps.graphs().enable(enabled);
    return Tensors();
  });
}

}  // namespace

void export_model_steps(Napi::Env env, Napi::Object exports) {
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
}

}  // namespace memformer::napi
