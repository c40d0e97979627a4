// The external memory of a model: M slots a row, restarted where a document starts, written once a segment, then forgotten.
#pragma once
#include "nn/forgetting.h"
#include "nn/writers/writer.h"

namespace memformer::nn {

class Memory {
 public:
  Memory(Parameters& parameters, const Config& config)
      : steps_(config.integer("writerSteps")),
        writer_(writers().make(config.text("writer"), parameters, config)),
        forgetting_(parameters, config) {}

  /// The memory at time 0 of `rows` rows, (rows, M, D).
  at::Tensor initial(int64_t rows) const { return forgetting_.initial().unsqueeze(0).expand({rows, -1, -1}).contiguous(); }

  /// The memory that is a model's state. Rows with reset (B) bool restart from the learned initial memory, which then receives
  /// their gradient.
  at::Tensor restart(const std::vector<at::Tensor>& state, const at::Tensor& reset) const {
    const auto initial = forgetting_.initial();
    require(state.size() == 1, "SHAPE", "the state is one tensor, the memory; got ", state.size());
    const std::vector<int64_t> shape{reset.size(0), initial.size(0), initial.size(1)};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ", state[0].sizes());
    return at::where(reset.view({-1, 1, 1}), initial.unsqueeze(0), state[0]);
  }

  /// m_t from m_{t-1} (B, M, D) and the segment x (B, T, D), which is taken in `writerSteps` times. A row of padding alone keeps its memory to the bit.
  at::Tensor write(const at::Tensor& memory, const at::Tensor& x, const KeyMask& mask, Pass& pass) const {
    auto next = memory;
    for (int64_t step = 0; step < steps_; ++step) next = forgetting_((*writer_)(next, x, mask, pass));
    if (mask.none()) return next;
    return at::where(mask.real().any(1).view({-1, 1, 1}), next, memory);
  }

 private:
  int64_t steps_;
  std::unique_ptr<Writer> writer_;
  Forgetting forgetting_;
};

}  // namespace memformer::nn
