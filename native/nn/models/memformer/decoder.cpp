// The "Memformer decoder" of the paper's MRBP table: causal layers that read the memory, the writer on top of the last.
//   input = [last token of source, target without its last]      x = decoder(input, m)      m' = write(m, x)
#include "nn/memory/memory.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/stacks.h"

namespace memformer::nn {
namespace {

using at::Tensor;

class Decoder final : public Model {
 public:
  Decoder(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        decoder_(parameters_, config, "decoder", config.integer("decoderLayers"), /*causal=*/true),
        memory_(parameters_, config),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), memory_.read_slots()} {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override { return {memory_.layout()}; }
  State initial_state(int64_t rows) const override { return {memory_.initial(rows)}; }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto hidden = decoder_(
                            input, [&] { return embedding_(input, ctx); },
                            memory_.source(state, segment.reset, ctx, /*writes=*/false), KeyMask(), ctx)
                            .first;
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }
  bool writes_from_decoder() const override { return true; }

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto view = memory_.read(state, segment.reset, ctx);
    return {decoder_.project_keys_values(view, /*queries=*/0, ctx),
            KeyMask(),
            last_token(segment.source, bos_).squeeze(1).to(at::kLong),
            {view.raw}};
  }
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    return decoder_.decode(embedding_(tokens, ctx), decoding, rows, ctx);
  }
  State next_state(const State& carried, const Tensor& hidden, const KeyMask& mask,
                   ForwardContext& ctx) const override {
    return {memory_.write(memory_.read(carried, {}, ctx), hidden, mask, ctx)};
  }

  std::shared_ptr<const Residual> begin(const SegmentInput& segment, ForwardContext& ctx) const override {
    return std::make_shared<Residual>(
        decoder_.begin([&] { return embedding_(read_tokens(segment), ctx); }, segment.target_mask(), ctx));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    // A position counts as padding where there is nothing to predict: its input would be the end of the document at
    // most.
    const auto mask = segment.target_mask();
    const auto tokens = ctx.begun() ? segment.target : read_tokens(segment);  // the stack asks for their number alone
    const auto [hidden, view] = decoder_(
        tokens, [&] { return embedding_(tokens, ctx); }, memory_.source(state, segment.reset, ctx, segment.writes),
        mask, ctx);
    if (!segment.writes) return {hidden, {}};
    return {hidden, {memory_.write(view, hidden, mask, ctx, segment.next_reset)}};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  at::Tensor decode(const SegmentInput&, const at::Tensor& hidden, ForwardContext&) const override { return hidden; }

  Embedding embedding_;
  MemoryStack decoder_;
  Memory memory_;
  DecoderShape shape_;
};

}  // namespace

const bool decoder_registered = models().add(
    "decoder", [](const Config& config, uint64_t seed) { return std::make_unique<Decoder>(config, seed); });

}  // namespace memformer::nn
