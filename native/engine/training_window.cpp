#include "engine/training_window.h"

#include "engine/gradients.h"

namespace memformer::engine {

nn::State train_window(Steps& steps, const nn::Parameters& parameters, AdamW& adamw, const TrainingWindow& window,
                       nn::State state, double rate, double clip) {
  const size_t count = window.segments.size(), together = std::min(window.together, count), last = count - together;
  std::vector<nn::State> memories{std::move(state)};
  for (size_t t = 0; t < last; ++t) memories.push_back(steps.advance(window.segments[t], memories[t]));
  nn::State gradient, after;
  for (size_t end = count; end > 0;) {
    const size_t begin = end > together ? end - together : 0;  // the first step is the short one
    const std::vector<nn::SegmentInput> segments(window.segments.begin() + begin, window.segments.begin() + end);
    const auto weights =
        at::tensor(at::ArrayRef(window.weights.data() + begin, end - begin), at::kDouble).to(parameters.dtype());
    const bool final = end == count;
    auto replayed = steps.replay(segments, memories[begin], weights, gradient, final);
    if (final) after = std::move(replayed.state);
    gradient = std::move(replayed.gradient);
    end = begin;
  }
  adamw.step(rate, clip_gradients(parameters, 0), clip);
  return after;
}

}  // namespace memformer::engine
