// The Recurrent Memory Transformer (Bulatov et al., 2022), decoder-only and pre-LayerNorm: the memory is read as M
// tokens before the segment and written as M tokens behind it. Its state is what the last layer makes of the latter.
//   [_, x, m'] = decoder([m, tokens, m])      m_0 learned
// The first m is seen by all, a token sees the tokens up to itself, the last m sees everything. It lies behind the
// row's last token: a padded row is the shorter sequence. A row of padding alone keeps its memory to the bit.
// Letters: B batch, T tokens, M memory tokens, N tokens of a sequence, D width, R rows that are decoded, S slots.
#include "nn/memory/border.h"
#include "nn/models/baselines/real_first.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/stacks.h"

namespace memformer::nn {
namespace {

using at::Tensor;

struct Layer {
  SelfAttention self_attention;
  FeedForward feed_forward;
};

class Rmt final : public Model {
 public:
  Rmt(const Config& config, uint64_t seed)
      : Model(config, seed),
        slots_(config.integer("memorySlots")),
        embedding_(parameters_, "embedding", config),
        layers_([&] {
          std::vector<Layer> made;
          const int64_t count = config.integer("decoderLayers");
          const double gain = residual_gain(config, config.text("residualStart"), count, 2);
          for (int64_t i = 0; i < count; ++i)
            made.push_back(
                {SelfAttention(parameters_, config, {"decoder", i, /*causal=*/false, /*beside=*/2 * slots_}, gain),
                 FeedForward(parameters_, "decoder." + std::to_string(i) + ".feed_forward", config.integer("width"),
                             config.integer("feedForward"), gain)});
          return made;
        }()),
        norm_(parameters_, "decoder.norm", config.integer("width")),
        initial_(parameters_.normal("memory.initial", {slots_, config.integer("width")},
                                    config.flag("embeddingNorm") ? 1.0 : config.number("embeddingDeviation"),
                                    Parameters::Decay::no)),
        border_(config),
        kept_(config.flag("memory")),
        shape_{config.integer("decoderLayers"),
               config.integer("heads"),
               config.integer("width"),
               config.integer("segmentLength"),
               0,
               2 * slots_} {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override { return {{"memory", {slots_, shape_.width}, parameters_.dtype(), true}}; }
  State initial_state(int64_t rows) const override {
    return {initial_.unsqueeze(0).expand({rows, -1, -1}).contiguous()};
  }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto memory = begun(segment, state, input.size(0));
    const auto hidden = run(at::cat({memory, embedding_(input, ctx)}, 1), {}, input.size(1), ctx);
    return project(hidden.select(1, hidden.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext&) const override {
    const auto first = last_token(segment.source, bos_).squeeze(1).to(at::kLong);
    return {{}, KeyMask(), first, {begun(segment, state, first.size(0))}};
  }
  void begin_rows(const DecodeState& decoding, const Tensor& slots, ForwardContext& ctx) const override {
    memory_rows(decoding, slots, at::zeros_like(slots), ctx);
  }
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    const DecodeRows behind{rows.slots, rows.positions + slots_, rows.lengths + slots_, rows.context_lengths,
                            rows.of_different_slots};
    return through(embedding_(tokens, ctx), decoding, behind, ctx);
  }
  State end_rows(const DecodeState& decoding, const Tensor& slots, ForwardContext& ctx) const override {
    const auto behind = decoding.positions.index_select(0, slots) + slots_;
    return {memory_rows(decoding, slots.to(at::kInt), behind, ctx)};
  }

  /// The memory tokens of these slots (B) int32, at the places from (B) int32 of their caches: (B, M, D), each of which
  /// sees all that lies before them and one another.
  Tensor memory_rows(const DecodeState& decoding, const Tensor& slots, const Tensor& from, ForwardContext& ctx) const {
    const int64_t B = slots.size(0);
    const auto each = [&](const Tensor& of_slots) { return of_slots.repeat_interleave(slots_); };
    const auto positions = (from.unsqueeze(1) + at::arange(slots_, from.options())).flatten();
    const DecodeRows rows{each(slots), positions, each(from + slots_), {}, /*of_different_slots=*/false};
    const auto memory = decoding.carried[0].index_select(0, slots.to(at::kLong)).view({B * slots_, 1, shape_.width});
    return through(memory, decoding, rows, ctx).view({B, slots_, shape_.width}).to(parameters_.dtype());
  }

  /// x (R, 1, D) -> (R, 1, D), normed.
  Tensor through(Tensor x, const DecodeState& decoding, const DecodeRows& rows, ForwardContext& ctx) const {
    Residual stream{std::move(x), std::nullopt};
    for (size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].self_attention.decode(stream, rows, decoding.layers[i], ctx);
      layers_[i].feed_forward(stream, ctx);
    }
    return norm_(stream, ctx);
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const RealFirst rows(segment.target_mask());
    const auto tokens = rows(read_tokens(segment));
    const int64_t B = tokens.size(0), T = tokens.size(1), M = slots_;
    const auto memory = begun(segment, state, B);
    const auto x = embedding_(tokens, ctx);
    if (!segment.writes) return {rows.back(run(at::cat({memory, x}, 1), rows.lengths(), T, ctx).narrow(1, M, T)), {}};
    auto sequence = at::cat({memory, x, memory}, 1);  // (B, N, D)
    if (!rows.lengths().defined()) {
      const auto hidden = run(sequence, {}, T, ctx);
      return {hidden.narrow(1, M, T), crossed(written(hidden.narrow(1, M + T, M)), segment.next_reset)};
    }
    // The last M lie behind a row's tokens, its padding behind them.
    const auto place = at::arange(2 * M + T, tokens.options().dtype(at::kLong)).unsqueeze(0),
               end = (M + rows.lengths().to(at::kLong)).unsqueeze(1);  // (1, N), (B, 1)
    const auto order = at::where(place.lt(end), place, at::where(place.lt(end + M), place - end + M + T, place - M));
    const auto behind = at::where(place.lt(end), place, place + M).narrow(1, M, T);  // where a token's output is
    const auto hidden = run(rows_of(sequence, order), rows.lengths(), T, ctx);
    const auto next = written(rows_of(hidden, end + place.narrow(1, 0, M)));
    const auto stays = rows.lengths().eq(0).view({-1, 1, 1});
    return {rows.back(rows_of(hidden, behind)), crossed(at::where(stays, memory, next), segment.next_reset)};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// x (B, N, D): M memory tokens, then at most T of the segment, the first lengths (B) of which are there (undefined:
  /// all), then the memory's again, if N leaves room for it. Returns (B, N, D), normed.
  Tensor run(Tensor x, const Tensor& lengths, int64_t T, ForwardContext& ctx) const {
    const int64_t N = x.size(1), M = slots_, last = N - M - T;
    const auto options = x.options().dtype(at::kLong).requires_grad(false);
    const auto key = at::arange(N, options).view({1, 1, N}), query = key.view({1, N, 1});
    const auto end =
        (lengths.defined() ? M + lengths.to(at::kLong) : at::full({1}, M + T, options)).view({-1, 1, 1});  // (B, 1, 1)
    auto visible = key.lt(M).logical_or(key.le(query));
    if (last > 0) visible = visible.logical_or(query.ge(end));
    visible = visible.logical_and(key.lt(end + last)).logical_or(key.eq(query));  // padding sees itself
    const auto mask = KeyMask::of_pairs(visible.unsqueeze(1));
    Residual stream{std::move(x), std::nullopt};
    for (const auto& layer : layers_) {
      layer.self_attention(stream, mask, ctx);
      layer.feed_forward(stream, ctx);
    }
    return norm_(stream, ctx);
  }

  /// (B, K, D): the rows of x (B, N, D) at these places (B, K).
  static Tensor rows_of(const Tensor& x, const Tensor& places) {
    return x.gather(1, places.unsqueeze(2).expand({-1, -1, x.size(2)}));
  }

  Tensor written(const Tensor& hidden) const { return hidden.to(parameters_.dtype()).contiguous(); }

  /// The memory as a segment meets it, (B, M, D).
  Tensor begun(const SegmentInput& segment, const State& state, int64_t B) const {
    require(state.size() == 1, "SHAPE", "the state is one tensor, the memory; got ", state.size());
    if (!segment.reset.defined()) return state[0].expand({B, -1, -1});
    const std::vector<int64_t> shape{segment.reset.size(0), slots_, shape_.width};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ",
            state[0].sizes());
    return restarted(border_(state[0]), segment.reset);
  }

  /// The state that a segment leaves; rows with next_reset (B) bool, if it is given, restart for the one that follows.
  State crossed(const Tensor& memory, const Tensor& next_reset) const {
    return {next_reset.defined() ? restarted(border_(memory), next_reset) : memory};
  }

  /// Rows that start (B) bool have the initial memory; all of them in a twin.
  Tensor restarted(const Tensor& memory, const Tensor& starts) const {
    return at::where((kept_ ? starts : at::ones_like(starts)).view({-1, 1, 1}), initial_.unsqueeze(0), memory);
  }

  int64_t slots_;
  Embedding embedding_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
  Tensor initial_;  // (M, D)
  Border border_;
  bool kept_;
  DecoderShape shape_;
};

}  // namespace

const bool rmt_registered =
    models().add("rmt", [](const Config& config, uint64_t seed) { return std::make_unique<Rmt>(config, seed); });

}  // namespace memformer::nn
