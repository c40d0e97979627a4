#include "napi/segment_handle.h"

#include "engine/threads.h"
#include "napi/devices.h"

namespace memformer::napi {
namespace {

using engine::Futures;
using engine::Tensors;

// In the order in which they stand among a call's inputs.
constexpr const char* kParts[] = {"source", "target", "reset", "seed", "lengths"};

}  // namespace

TensorRange::TensorRange(const Napi::Value& handles, const char* argument, Futures& inputs)
    : argument_(argument), first_(inputs.size()) {
  for (auto& one : futures(handles, argument)) inputs.push_back(std::move(one));
  size_ = inputs.size() - first_;
}

Tensors TensorRange::on_model(const ModelHandle& held, const Tensors& tensors) const {
  Tensors brought;
  for (size_t i = 0; i < size_; ++i)
    brought.push_back(brought_to(held.device, tensors[first_ + i], argument_, "[", i, "]"));
  return brought;
}

SegmentHandle::SegmentHandle(const Napi::Value& segment, Futures& inputs) : first_(inputs.size()) {
  require(segment.IsObject(), "NATIVE", "a segment is an object of handles");
  const auto parts = segment.As<Napi::Object>();
  for (const auto* name : kParts) inputs.push_back(future(parts.Get(name), name));
  training_ = parts.Get("training").As<Napi::Boolean>();
}

nn::SegmentInput SegmentHandle::read(const ModelHandle& held, const Tensors& tensors) const {
  const auto* parts = tensors.data() + first_;
  for (size_t i = 0; i < std::size(kParts); ++i) require_numbers(parts[i], "segment.", kParts[i]);
  engine::use_threads_for(parts[0].size(0) * parts[0].size(1) * held.model->parameters().count());
  return {parts[0], parts[1], parts[2], parts[3], parts[4], training_};
}

SegmentHandles::SegmentHandles(const Napi::Value& segments, Futures& inputs) {
  require(segments.IsArray() && segments.As<Napi::Array>().Length() > 0, "NATIVE",
          "segments are an array of at least one");
  const auto list = segments.As<Napi::Array>();
  for (uint32_t g = 0; g < list.Length(); ++g) segments_.emplace_back(list.Get(g), inputs);
}

std::vector<nn::SegmentInput> SegmentHandles::read(const ModelHandle& held, const Tensors& tensors) const {
  std::vector<nn::SegmentInput> inputs;
  for (const auto& segment : segments_) inputs.push_back(segment.read(held, tensors));
  return inputs;
}

}  // namespace memformer::napi
