// Gated DeltaNet (Yang et al., 2024), pre-LayerNorm: layers whose memory is a matrix per head (delta_rule.h), each
// followed by a feed-forward layer. Its state is these matrices, and the last inputs of the layers' convolutions.
// Input as in the decoder: [last token of source, target without its last]. Padding is as if it were not there.
// Letters: B batch, T tokens, G segments, L layers, D width, E = D / heads.
#include "nn/models/baselines/delta_rule.h"
#include "nn/models/baselines/layout_state.h"
#include "nn/models/baselines/real_first.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/stacks.h"

namespace memformer::nn {
namespace {

using at::Tensor;

struct Layer {
  DeltaRule delta_rule;
  FeedForward feed_forward;
};

class GatedDelta final : public Model {
 public:
  GatedDelta(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        layers_([&] {
          std::vector<Layer> made;
          const int64_t count = config.integer("decoderLayers"), D = config.integer("width");
          const double gain = residual_gain(config, config.text("residualStart"), count, 2);
          for (int64_t i = 0; i < count; ++i) {
            const auto prefix = "decoder." + std::to_string(i);
            made.push_back(
                {DeltaRule(parameters_, config, prefix + ".delta_rule", gain),
                 FeedForward(parameters_, prefix + ".feed_forward", D, config.integer("feedForward"), gain)});
          }
          return made;
        }()),
        norm_(parameters_, "decoder.norm", config.integer("width")),
        kept_(config.flag("memory")),
        heads_(config.integer("heads")),
        width_(config.integer("width")),
        segment_(config.integer("segmentLength")) {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override {
    const auto L = static_cast<int64_t>(layers_.size()), E = width_ / heads_;
    return {{"matrices", {L, heads_, E, E}, parameters_.dtype(), true},
            {"tail", {L, DeltaRule::kWidth - 1, 3 * width_}, parameters_.dtype(), true}};
  }
  State initial_state(int64_t rows) const override { return zero_state(state_layout(), rows, device()); }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    auto before = begun(segment, state);
    const auto hidden = run(input, {}, before, {}, ctx);
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return {0, 1, width_, segment_, 0}; }

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext&) const override {
    return {{}, KeyMask(), last_token(segment.source, bos_).squeeze(1).to(at::kLong), begun(segment, state)};
  }
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto of_layer = [&](const Tensor& part) { return part.select(1, static_cast<int64_t>(i)); };
      layers_[i].delta_rule.decode(stream, rows, of_layer(decoding.carried[0]), of_layer(decoding.carried[1]), ctx);
      layers_[i].feed_forward(stream, ctx);
    }
    return norm_(stream, ctx);
  }
  State next_state(const State& carried, const Tensor&, const KeyMask&, ForwardContext&) const override {
    return carried;
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const RealFirst rows(segment.target_mask());
    auto next = begun(segment, state);
    const auto hidden = rows.back(run(rows(read_tokens(segment)), rows.lengths(), next, {}, ctx));
    if (!segment.writes) return {hidden, {}};
    return {hidden, restarted(next, segment.next_reset)};
  }

  /// Layer by layer: only a layer's own matrices go from segment to segment, and what they are made of does not wait.
  Path encode_all(const std::vector<SegmentInput>& segments, State state) const override {
    if (segments.size() == 1) return Model::encode_all(segments, std::move(state));
    const auto all = joined(segments);
    const RealFirst rows(all.target_mask());
    auto next = begun(segments[0], state);
    std::vector<Tensor> starts;
    for (size_t g = 1; g < segments.size(); ++g)
      starts.push_back(kept_ ? segments[g].reset : at::ones_like(segments[g].reset));
    auto ctx = start(all);
    const auto hidden = rows.back(run(rows(read_tokens(all)), rows.lengths(), next, starts, ctx));
    return {hidden, restarted(next, segments.back().next_reset), {}, ctx};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// tokens (G B, T), the first lengths (G B) of a row being there (undefined: all), starts as DeltaRule takes them ->
  /// (G B, T, D), normed; `state` is moved on.
  Tensor run(const Tensor& tokens, const Tensor& lengths, State& state, const std::vector<Tensor>& starts,
             ForwardContext& ctx) const {
    const auto before = of_rows(state, tokens.size(0) / (static_cast<int64_t>(starts.size()) + 1));
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    std::vector<Tensor> matrices, tails;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto of_layer = [&](const Tensor& part) { return part.select(1, static_cast<int64_t>(i)); };
      auto S = of_layer(before[0]), tail = of_layer(before[1]);
      layers_[i].delta_rule(stream, lengths, S, tail, starts, ctx);
      layers_[i].feed_forward(stream, ctx);
      matrices.push_back(S);
      tails.push_back(tail);
    }
    state = {at::stack(matrices, 1), at::stack(tails, 1)};
    return norm_(stream, ctx);
  }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    const auto layout = state_layout();
    require(state.size() == layout.size(), "SHAPE", "the state is two tensors, matrices and tail; got ", state.size());
    if (!segment.reset.defined()) return state;
    require_parts(layout, state, segment.reset.size(0));
    return restarted(state, segment.reset);
  }

  /// Rows that start (B) bool begin at zero; all of them in a twin. Undefined: none.
  State restarted(const State& state, const Tensor& starts) const {
    if (!starts.defined()) return state;
    const auto rows = kept_ ? starts : at::ones_like(starts);
    return {state[0].masked_fill(rows.view({-1, 1, 1, 1, 1}), 0.0),
            state[1].masked_fill(rows.view({-1, 1, 1, 1}), 0.0)};
  }

  Embedding embedding_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
  bool kept_;
  int64_t heads_, width_, segment_;
};

}  // namespace

const bool gated_delta_registered = models().add(
    "gated-delta", [](const Config& config, uint64_t seed) { return std::make_unique<GatedDelta>(config, seed); });

}  // namespace memformer::nn
