// The contents of an optimizer's handle.
#pragma once
#include "engine/adamw.h"
#include "napi/model_handle.h"

namespace memformer::napi {

/// An optimizer keeps its model alive: it holds the parameters by reference.
struct OptimizerHandle {
  std::shared_ptr<ModelHandle> held;
  engine::AdamW::Options options;
  std::optional<engine::AdamW> made;

  /// Made by the engine's thread when it first needs it: filling tensors on this one would start a second OpenMP team.
  engine::AdamW& adamw() {
    if (!made) made.emplace(held->model->parameters(), options);
    return *made;
  }
};

}  // namespace memformer::napi
