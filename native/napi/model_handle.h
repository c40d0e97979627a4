// The contents of a model's handle, and calls of it.
#pragma once
#include "core/cuda.h"
#include "engine/steps.h"
#include "napi/environment.h"
#include "napi/values.h"

namespace memformer::napi {

struct ModelHandle {
  std::shared_ptr<nn::Model> model;
  engine::Steps steps;
  at::Device device;
};

inline std::shared_ptr<ModelHandle> model_of(const Napi::Value& value) {
  return unwrap<ModelHandle>(value, Kind::model, "model");
}

/// Enqueues work(held, tensors) over `inputs` and returns the handles of its `count` results. Arguments of the call:
/// its number, the model, and others.
template <typename Work>
Napi::Value enqueue_on_model(const Napi::CallbackInfo& info, engine::Futures inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  engine::Futures outputs;
  const auto handles = new_futures(info.Env(), count, outputs);
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [held = model_of(info[1]), work = std::move(work)](const engine::Tensors& tensors) {
                                compute_on(held->device);
                                return work(*held, tensors);
                              });
  return handles;
}

}  // namespace memformer::napi
