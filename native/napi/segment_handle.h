// A segment as JavaScript hands it to a call, { source, target, reset, seed, lengths, training }, and where its tensors
// and others stand among the call's inputs.
#pragma once
#include "napi/model_handle.h"

namespace memformer::napi {

/// Tensors of a call that stand side by side among its inputs.
class TensorRange {
 public:
  /// Appends an array of handles to `inputs`. `argument` names it in errors.
  TensorRange(const Napi::Value& handles, const char* argument, engine::Futures& inputs);

  size_t size() const { return size_; }
  /// They, of a call's tensors, on the model's device: from a file or another model's, they are taken too.
  engine::Tensors on_model(const ModelHandle& held, const engine::Tensors& tensors) const;

 private:
  const char* argument_;
  size_t first_, size_;
};

class SegmentHandle {
 public:
  /// Appends the segment's tensors to `inputs`.
  SegmentHandle(const Napi::Value& segment, engine::Futures& inputs);

  /// The segment, of a call's tensors; from here on the engine computes with the threads that its size is worth.
  nn::SegmentInput read(const ModelHandle& held, const engine::Tensors& tensors) const;

 private:
  size_t first_;
  bool training_;
};

/// Consecutive segments, an array of at least one.
class SegmentHandles {
 public:
  SegmentHandles(const Napi::Value& segments, engine::Futures& inputs);

  size_t size() const { return segments_.size(); }
  std::vector<nn::SegmentInput> read(const ModelHandle& held, const engine::Tensors& tensors) const;

 private:
  std::vector<SegmentHandle> segments_;
};

}  // namespace memformer::napi
