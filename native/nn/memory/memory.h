// A model's external memory: M slots per row, restarted where a document starts, written once per segment, then
// forgotten. A twin (`memory` false in the configuration) restarts every row at every segment: the same parameters and
// work, but nothing is remembered. The worth of a memory is how much worse its twin is.
// Letters: B batch, M slots, C constant slots, T tokens of a segment, D width.
#pragma once
#include "nn/memory/border.h"
#include "nn/memory/forgetting.h"
#include "nn/memory/writers/writer.h"
#include "nn/state.h"

namespace memformer::nn {

class Memory {
 public:
  Memory(Parameters& parameters, const Config& config)
      : kept_(config.flag("memory")),
        steps_(config.integer("writerSteps")),
        normed_(config.flag("memoryNorm")),
        writer_(writers().make(config.text("writer"), parameters, config)),
        forgetting_(parameters, config),
        border_(config) {
    const int64_t C = config.integer("constantSlots"), D = config.integer("width");
    if (C > 0)
      constants_ =
          parameters.normal("memory.constants", {C, D}, 1.0 / std::sqrt(static_cast<double>(D)), Parameters::Decay::no);
  }

  /// The memory as a part of a state.
  StatePart layout() const { return {"memory", forgetting_.size().vec(), forgetting_.dtype(), true}; }

  /// M + C: slots that a segment reads.
  int64_t read_slots() const { return forgetting_.size()[0] + (constants_.defined() ? constants_.size(0) : 0); }

  /// The memory at time 0 of `rows` rows, (rows, M, D).
  at::Tensor initial(int64_t rows) const {
    return forgetting_.initial().unsqueeze(0).expand({rows, -1, -1}).contiguous();
  }

  /// The memory that is a model's state, as a segment meets it. Rows with reset (B) bool restart from the learned
  /// initial memory, which then receives their gradient; no reset: the segment before has seen to it, and to the border
  /// between them.
  MemoryView read(const State& state, const at::Tensor& reset, const ForwardContext& ctx) const {
    require(state.size() == 1, "SHAPE", "the state is one tensor, the memory; got ", state.size());
    if (!reset.defined()) return MemoryView::of(state[0], normed_, ctx, constants_);
    const auto size = forgetting_.size();
    const std::vector<int64_t> shape{reset.size(0), size[0], size[1]};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ",
            state[0].sizes());
    return MemoryView::of(forgetting_.restart(border_(state[0]), starting(reset)), normed_, ctx, constants_);
  }

  /// read(), and what the writer makes of the memory alone where it `writes`. The arguments have to live as long.
  MemorySource source(const State& state, const at::Tensor& reset, ForwardContext& ctx, bool writes) const {
    MemorySource source{[&] { return read(state, reset, ctx); }, {}};
    if (writes) source.prepare = [&](MemoryView& view) { writer_->prepare(view, ctx); };
    return source;
  }

  /// m_t from m_{t-1} and the segment x (B, T, D), which is taken in `writerSteps` times. A row of padding alone keeps
  /// its memory to the bit. Rows with next_start (B) bool, if it is given, restart at once for the segment that
  /// follows.
  at::Tensor write(const MemoryView& view, const at::Tensor& x, const KeyMask& mask, ForwardContext& ctx,
                   const at::Tensor& next_start = {}) const {
    const auto next_reset = starting(next_start);
    const auto lengths = writer_->keeps_rows_without_tokens() ? mask.lengths() : std::nullopt;
    auto next = (*writer_)(view, x, mask, ctx);
    for (int64_t step = 1; step < steps_; ++step)
      next = (*writer_)(MemoryView::of(forgetting_(next, {}, lengths), normed_, ctx), x, mask, ctx);
    const bool crosses = next_reset.defined() && next.requires_grad() && !border_.changes_nothing();
    if ((mask.none() || lengths) && !crosses) return forgetting_(next, next_reset, lengths);
    auto kept = forgetting_(next, {}, lengths);
    if (!mask.none() && !lengths) kept = at::where(mask.has_tokens().view({-1, 1, 1}), kept, view.raw);
    return forgetting_.restart(crosses ? border_(kept) : kept, next_reset);
  }

 private:
  /// The rows that restart, (B) bool: those that start a document; all, in a twin. On the device alone, whatever the
  /// numbers are.
  at::Tensor starting(const at::Tensor& reset) const {
    return kept_ || !reset.defined() ? reset : at::ones_like(reset);
  }

  bool kept_;
  int64_t steps_;
  bool normed_;
  std::unique_ptr<Writer> writer_;
  Forgetting forgetting_;
  Border border_;
  at::Tensor constants_;  // (C, D), or undefined
};

}  // namespace memformer::nn
