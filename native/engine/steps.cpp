#include "engine/steps.h"

#include "core/failure.h"
#include "engine/gradients.h"
#include "engine/segment_inputs.h"
#include "ops/round_to/round_to.h"

namespace memformer::engine {
namespace {

using Segments = std::vector<nn::SegmentInput>;

std::string kind(const char* step, const Segments& segments) {
  return std::string(step) + (segments[0].training ? " training" : "");
}

Tensors slice(const Tensors& tensors, size_t first, size_t count) {
  return Tensors(tensors.begin() + first, tensors.begin() + first + count);
}

}  // namespace

nn::SegmentInput on_device(const nn::SegmentInput& segment, at::Device device) {
  const Segments one{segment};
  return segments_from(to_device(inputs_of(one), device), one)[0];
}

Steps::Steps(std::shared_ptr<nn::Model> model) : model_(std::move(model)), layout_(model_->state_layout()) {}

Tensors Steps::run(const std::string& key, const Inputs& inputs, const GraphCache::Work& work,
                   const std::vector<at::ScalarType>& as) {
  model_->prepare_replay();
  try {
    return graphs_.run(model_->device(), key, inputs, work, as);
  } catch (const c10::OutOfMemoryError&) {
    graphs_.clear();  // a smaller step has to find room
    if (cuda() != nullptr) cuda()->trim();
    throw;
  }
}

nn::State Steps::advance(const Segments& segments, const nn::State& state) {
  auto inputs = inputs_of(segments);
  std::vector<at::ScalarType> given;
  auto name = kind("advance", segments);
  for (size_t i = 0; i < state.size(); ++i) {
    given.push_back(state[i].scalar_type());
    if (segments.size() > 1) name += std::string(" ") + c10::toString(given[i]);  // which is in what is recorded
    const bool narrow = given[i] == at::kBFloat16 || given[i] == at::kHalf;
    inputs.push_back({state[i], narrow && i < layout_.size() ? layout_[i].dtype : given[i]});
  }
  return run(
      name, inputs,
      [&](const Tensors& tensors) {
        at::NoGradGuard no_grad;
        const auto start = slice(tensors, kSegmentParts * segments.size(), state.size());
        return model_->advance(segments_from(tensors, segments), start, [&](nn::State& next) {
          for (size_t i = 0; i < next.size(); ++i)
            if (given[i] != start[i].scalar_type()) next[i] = ops::round_to(next[i], given[i]);
        });
      },
      given);
}

Steps::Replayed Steps::replay(const Segments& segments, const nn::State& state, const at::Tensor& weights,
                              const nn::State& gradient, bool last) {
  const size_t N = state.size(),
               first = kSegmentParts * segments.size();  // the weights come first after the segments, then the state
  require(N == layout_.size(), "SHAPE", "the state is ", layout_.size(), " tensor(s), got ", N);
  const size_t differentiable = nn::differentiable_parts(layout_), later = last ? 0 : differentiable;
  require(gradient.size() == later, "SHAPE", last ? "after the last segment" : "before a later segment",
          " the state's gradient is ", later, " tensor(s), got ", gradient.size());
  const Tensors given{weights};
  auto results = run(kind(last ? "replay last" : "replay", segments), inputs_of(segments, {&given, &state, &gradient}),
                     [&](const Tensors& inputs) {
                       at::AutoGradMode grad_mode(true);
                       auto before = slice(inputs, first + 1, N);
                       for (size_t i = 0; i < N; ++i)
                         if (layout_[i].differentiable) before[i] = before[i].detach().requires_grad_(true);
                       const auto outputs = model_->forward(segments_from(inputs, segments), before, inputs[first]);
                       Tensors roots{outputs.total}, root_grads{at::Tensor()};
                       if (!last) {
                         const auto after = nn::differentiable(layout_, outputs.state);
                         roots.insert(roots.end(), after.begin(), after.end());
                         root_grads.insert(root_grads.end(), inputs.begin() + first + 1 + N, inputs.end());
                       }
                       Tensors made{outputs.loss, outputs.count};
                       if (last)
                         for (const auto& part : outputs.state) made.push_back(part.detach());
                       backward(roots, root_grads);
                       for (const auto& leaf : nn::differentiable(layout_, before))
                         made.push_back(engine::gradient(leaf));
                       return made;
                     });
  const size_t states = last ? N : 0;
  return {results[0], results[1], slice(results, 2, states), slice(results, 2 + states, differentiable)};
}

nn::Scores Steps::score(const Segments& segments, const nn::State& state, const Tensors& held,
                        const std::vector<std::string>& ablations, const std::function<void()>& between) {
  const size_t N = state.size(), first = kSegmentParts * segments.size();
  const bool on_cpu = model_->device().is_cpu();
  std::string key = "score";
  std::vector<nn::Ablation> wanted;
  for (const auto& name : ablations) {
    wanted.push_back(nn::ablation(name));
    key += " " + name;
  }
  const bool frozen = std::find(wanted.begin(), wanted.end(), nn::Ablation::frozen) != wanted.end();
  require(held.empty() || (frozen && held.size() == N + 1), "SHAPE", "score: held must be ", N + 1, " tensors, got ",
          held.size());
  auto results = run(key, inputs_of(segments, {&state, &held}), [&](const Tensors& inputs) {
    at::NoGradGuard no_grad;
    nn::FrozenState before;
    if (!held.empty()) before = {slice(inputs, first + N, N), inputs.back()};
    auto scores = on_cpu
                      ? model_->score(segments_from(inputs, segments), slice(inputs, first, N), before, wanted, between)
                      : model_->score(segments_from(inputs, segments), slice(inputs, first, N), before, wanted);
    Tensors made{scores.loss, scores.count};
    made.insert(made.end(), scores.state.begin(), scores.state.end());
    made.insert(made.end(), scores.held.state.begin(), scores.held.state.end());
    if (frozen) made.push_back(scores.held.holds);
    return made;
  });
  nn::FrozenState after;
  if (frozen) after = {slice(results, 2 + N, N), results.back()};
  return {results[0], results[1], slice(results, 2, N), after};
}

}  // namespace memformer::engine
