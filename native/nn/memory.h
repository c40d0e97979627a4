// The external memory of a model: M slots a row, restarted where a document starts, written once a segment, then forgotten.
#pragma once
#include "nn/forgetting.h"
#include "nn/writers/writer.h"

namespace memformer::nn {

class Memory {
 public:
  Memory(Parameters& parameters, const Config& config)
      : steps_(config.integer("writerSteps")),
        normed_(config.flag("memoryNorm")),
        writer_(writers().make(config.text("writer"), parameters, config)),
        forgetting_(parameters, config) {}

  /// The memory at time 0 of `rows` rows, (rows, M, D).
  at::Tensor initial(int64_t rows) const { return forgetting_.initial().unsqueeze(0).expand({rows, -1, -1}).contiguous(); }

  /// The memory that is a model's state, as a segment meets it. Rows with reset (B) bool restart from the learned initial memory, which then
  /// receives their gradient; no reset: the segment before has seen to it.
  Slots meet(const std::vector<at::Tensor>& state, const at::Tensor& reset, const Pass& pass) const {
    require(state.size() == 1, "SHAPE", "the state is one tensor, the memory; got ", state.size());
    if (!reset.defined()) return Slots::of(state[0], normed_, pass);
    const auto slots = forgetting_.size();
    const std::vector<int64_t> shape{reset.size(0), slots[0], slots[1]};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ", state[0].sizes());
    return Slots::of(forgetting_.restart(state[0], reset), normed_, pass);
  }

  /// m_t from m_{t-1} and the segment x (B, T, D), which is taken in `writerSteps` times. A row of padding alone keeps its memory to the bit.
  /// Rows with next_reset (B) bool, if it is given, restart at once for the segment that follows.
  at::Tensor write(const Slots& slots, const at::Tensor& x, const KeyMask& mask, Pass& pass, const at::Tensor& next_reset = {}) const {
    const auto lengths = writer_->keeps_rows_without_tokens() ? mask.lengths() : std::nullopt;
    auto next = (*writer_)(slots, x, mask, pass);
    for (int64_t step = 1; step < steps_; ++step) next = (*writer_)(Slots::of(forgetting_(next, {}, lengths), normed_, pass), x, mask, pass);
    if (mask.none() || lengths) return forgetting_(next, next_reset, lengths);
    return forgetting_.restart(at::where(mask.has_tokens().view({-1, 1, 1}), forgetting_(next), slots.raw), next_reset);
  }

 private:
  int64_t steps_;
  bool normed_;
  std::unique_ptr<Writer> writer_;
  Forgetting forgetting_;
};

}  // namespace memformer::nn
