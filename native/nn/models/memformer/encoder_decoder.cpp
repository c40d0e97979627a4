// The paper's main model: the encoder reads memory and segment and writes the memory; the decoder continues the text
// with the next segment and reaches the memory only through the encoder's output.
//   x = encoder(source, m)      m' = write(m, x)      P(target) = decoder([BOS, target without its last], x)
#include "nn/memory/memory.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/stacks.h"

namespace memformer::nn {
namespace {

using at::Tensor;

class EncoderDecoder final : public Model {
 public:
  EncoderDecoder(const Config& config, uint64_t seed)
      : Model(config, seed),
        source_embedding_(parameters_, "embedding", config),
        target_embedding_(config.flag("shareEmbedding") ? source_embedding_
                                                        : Embedding(parameters_, "decoder.embedding", config)),
        encoder_(parameters_, config, "encoder", config.integer("encoderLayers"), /*causal=*/false),
        decoder_(parameters_, config, config.integer("decoderLayers")),
        memory_(parameters_, config),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), config.integer("segmentLength")} {
    make_output(config, target_embedding_.weight());
  }

  StateLayout state_layout() const override { return {memory_.layout()}; }
  State initial_state(int64_t rows) const override { return {memory_.initial(rows)}; }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto source_mask = segment.source_mask();
    const auto encoded = encoder_(
                             segment.source, [&] { return source_embedding_(segment.source, ctx); },
                             memory_.source(state, segment.reset, ctx, /*writes=*/false), source_mask, ctx)
                             .first;
    const auto input = at::cat({at::full({prefix.size(0), 1}, bos_, prefix.options()), prefix}, 1);
    const auto hidden = decoder_(target_embedding_(input, ctx), KeyMask(), encoded, source_mask, ctx);
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }

  /// The memory's next state is written from the source: it is there before the first token.
  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto encoding = encode(segment, state, ctx);
    return {decoder_.project_keys_values(encoding.hidden, /*queries=*/0, ctx), segment.source_mask(),
            at::full({segment.source.size(0)}, bos_, segment.source.options().dtype(at::kLong)), encoding.state};
  }
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    return decoder_.decode(target_embedding_(tokens, ctx), decoding, rows, ctx);
  }
  State next_state(const State& carried, const Tensor&, const KeyMask&, ForwardContext&) const override {
    return carried;
  }

  std::shared_ptr<const Residual> begin(const SegmentInput& segment, ForwardContext& ctx) const override {
    return std::make_shared<Residual>(
        encoder_.begin([&] { return source_embedding_(segment.source, ctx); }, segment.source_mask(), ctx));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.source_mask();
    const auto [encoded, view] = encoder_(
        segment.source, [&] { return source_embedding_(segment.source, ctx); },
        memory_.source(state, segment.reset, ctx, segment.writes), mask, ctx);
    if (!segment.writes) return {encoded, {}};
    return {encoded, {memory_.write(view, encoded, mask, ctx, segment.next_reset)}};
  }

  Tensor decode(const SegmentInput& segments, const Tensor& encoded, ForwardContext& ctx) const override {
    const auto first = at::full({segments.target.size(0), 1}, bos_, segments.target.options());
    return decoder_(target_embedding_(shifted(first, segments.target), ctx), segments.target_mask(), encoded,
                    segments.source_mask(), ctx);
  }

  Embedding source_embedding_, target_embedding_;  // one tensor where they are shared
  MemoryStack encoder_;
  DecoderStack decoder_;
  Memory memory_;
  DecoderShape shape_;
};

}  // namespace

const bool encoder_decoder_registered = models().add("encoder-decoder", [](const Config& config, uint64_t seed) {
  return std::make_unique<EncoderDecoder>(config, seed);
});

}  // namespace memformer::nn
