// A segment's tensors as a recorded step takes them in.
#pragma once
#include "engine/graph_inputs.h"
#include "nn/models/model.h"

namespace memformer::engine {

/// Tensors of a segment.
constexpr size_t kSegmentParts = 5;

/// The segments' tensors, then the others.
Inputs inputs_of(const std::vector<nn::SegmentInput>& segments, std::initializer_list<const Tensors*> others = {});

/// The segments that such inputs begin with, as many as `like` has, trained on where those are.
std::vector<nn::SegmentInput> segments_from(const Tensors& inputs, const std::vector<nn::SegmentInput>& like);

}  // namespace memformer::engine
