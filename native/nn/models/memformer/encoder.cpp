// The stateful encoder: tokens or embeddings in, hidden states and memory out; a tied or untied head scores a label a
// token.
//   x = encoder(source, m)      m' = write(m, x)      P(target_t) = softmax(x_t W^T)
#include "nn/memory/memory.h"
#include "nn/models/model.h"
#include "nn/stacks.h"

namespace memformer::nn {
namespace {

class Encoder final : public Model {
 public:
  Encoder(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        encoder_(parameters_, config, "encoder", config.integer("encoderLayers"), /*causal=*/false),
        memory_(parameters_, config) {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override { return {memory_.layout()}; }
  State initial_state(int64_t rows) const override { return {memory_.initial(rows)}; }

  at::Tensor logits(const SegmentInput&, const at::Tensor&, const State&) const override {
    throw Failure(
        "CONFIG",
        "architecture \"encoder\" has no next token to predict; use \"encoder-decoder\" or \"decoder\" to generate");
  }

 private:
  std::shared_ptr<const Residual> begin(const SegmentInput& segment, ForwardContext& ctx) const override {
    return std::make_shared<Residual>(
        encoder_.begin([&] { return embedding_(segment.source, ctx); }, segment.source_mask(), ctx));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.source_mask();
    const auto [hidden, view] = encoder_(
        segment.source, [&] { return embedding_(segment.source, ctx); },
        memory_.source(state, segment.reset, ctx, segment.writes), mask, ctx);
    if (!segment.writes) return {hidden, {}};
    return {hidden, {memory_.write(view, hidden, mask, ctx, segment.next_reset)}};
  }

  at::Tensor decode(const SegmentInput&, const at::Tensor& hidden, ForwardContext&) const override { return hidden; }

  Embedding embedding_;
  MemoryStack encoder_;
  Memory memory_;
};

}  // namespace

const bool encoder_registered = models().add(
    "encoder", [](const Config& config, uint64_t seed) { return std::make_unique<Encoder>(config, seed); });

}  // namespace memformer::nn
