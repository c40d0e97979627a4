#include "engine/segment_inputs.h"

namespace memformer::engine {

Inputs inputs_of(const std::vector<nn::SegmentInput>& segments, std::initializer_list<const Tensors*> others) {
  Inputs inputs;
  for (const auto& segment : segments) {
    const auto of_source = segment.source.is_floating_point() ? segment.source.scalar_type() : at::kLong;
    inputs.insert(inputs.end(), {{segment.source, of_source},
                                 {segment.target, at::kLong},
                                 {segment.reset, at::kBool},
                                 {segment.seed, at::kLong},
                                 {segment.lengths, at::kInt}});
  }
  for (const auto* tensors : others)
    for (const auto& tensor : *tensors) inputs.push_back({tensor, tensor.scalar_type()});
  return inputs;
}

std::vector<nn::SegmentInput> segments_from(const Tensors& inputs, const std::vector<nn::SegmentInput>& like) {
  std::vector<nn::SegmentInput> segments;
  for (size_t g = 0; g < like.size(); ++g) {
    const auto* part = inputs.data() + kSegmentParts * g;
    segments.push_back({part[0], part[1], part[2], part[3], part[4], like[g].training});
  }
  return segments;
}

}  // namespace memformer::engine
