// The contents of a model's handle.
#pragma once
#include "engine/segment_inputs.h"
#include "engine/steps.h"
#include "napi/values.h"

namespace memformer::napi {

struct ModelHandle {
  std::shared_ptr<nn::Model> model;
  engine::Steps steps;
  at::Device device;
};

/// Tensors of a segment from JavaScript: source, target, reset, seed, lengths.
using engine::kSegmentParts;

/// So many tensors as a segment; from here on the engine computes with the threads that its size is worth.
nn::SegmentInput segment_of(const ModelHandle& held, const at::Tensor* parts, bool training);

inline std::shared_ptr<ModelHandle> model_of(const Napi::Value& value) {
  return unwrap<ModelHandle>(value, Kind::model, "model");
}

}  // namespace memformer::napi
