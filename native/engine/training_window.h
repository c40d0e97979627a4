// A training step by MRBP driven from C++, as lib/gradients/mrbp.ts drives it from JavaScript: what a step costs
// without the binding. For measuring the binding alone.
#pragma once
#include "engine/adamw.h"
#include "engine/steps.h"

namespace memformer::engine {

struct TrainingWindow {
  std::vector<nn::SegmentInput> segments;
  std::vector<double> weights;  ///< of each segment's loss
  size_t together = 1;          ///< segments that go back at once
};

/// One window from `state`: its gradient, clipping to a norm of `clip`, AdamW's update at `rate`. Returns the memory
/// after it.
nn::State train_window(Steps& steps, const nn::Parameters& parameters, AdamW& adamw, const TrainingWindow& window,
                       nn::State state, double rate, double clip);

}  // namespace memformer::engine
