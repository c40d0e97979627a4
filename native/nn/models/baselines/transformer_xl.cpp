// Transformer-XL (Dai et al., 2019): layers that also see their own inputs of the C tokens before the segment
// (relative_stack.h). These are its state, the cache.
// Input as in the decoder: [last token of source, target without its last].
// Letters: B batch, T tokens, G segments, C places of the cache, L layers, D width.
#include "nn/models/baselines/layout_state.h"
#include "nn/models/baselines/token_cache.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"

namespace memformer::nn {
namespace {

using at::Tensor;

class TransformerXl final : public Model {
 public:
  TransformerXl(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        stack_(parameters_, config),
        cache_(config),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), cache_.places()} {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override { return cache_.layout(parameters_.dtype()); }
  State initial_state(int64_t rows) const override { return zero_state(state_layout(), rows, device()); }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto hidden = stack_(embedding_(input, ctx), {}, TokenCache::of(begun(segment, state)), ctx).first;
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }
  bool writes_from_decoder() const override { return true; }  // what tells how many tokens were fed

  /// Carried: the cache, how much of it is filled, and the layers' inputs of the segment's tokens (B, L, T, D).
  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto before = begun(segment, state);
    const int64_t B = before[0].size(0);
    const auto inputs = at::zeros({B, shape_.layers, shape_.segment, shape_.width}, before[0].options());
    return {stack_.project_keys_values(TokenCache::of(before), ctx),
            KeyMask(),
            last_token(segment.source, bos_).squeeze(1).to(at::kLong),
            {before[0], before[1], inputs}};
  }

  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    const auto slots = rows.slots.to(at::kLong), positions = rows.positions.to(at::kLong);
    const auto filled = decoding.carried[1].index_select(0, slots);
    const auto [hidden, inputs] = stack_.decode(embedding_(tokens, ctx), decoding, rows, filled, ctx);
    decoding.carried[2].transpose(1, 2).index_put_({slots, positions}, inputs.squeeze(2).to(parameters_.dtype()));
    return hidden;
  }

  State next_state(const State& carried, const Tensor&, const KeyMask& mask, ForwardContext&) const override {
    const int64_t T = carried[2].size(2);
    return cache_.next({carried[0], carried[1]}, carried[2], real_of(mask, carried[1].size(0), T, carried[1].device()));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.target_mask();
    const auto tokens = read_tokens(segment);
    const auto real = real_of(mask, tokens.size(0), tokens.size(1), tokens.device());
    const auto before = of_rows(begun(segment, state), tokens.size(0));
    const auto [hidden, inputs] =
        stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real, TokenCache::of(before), ctx);
    if (!segment.writes) return {hidden, {}};
    return {hidden, cache_.restarted(cache_.next(before, at::stack(inputs, 1), real), segment.next_reset)};
  }

  /// Layer by layer: what a segment's layer sees of the segments before it has no gradient, so that nothing has to be
  /// over before it but the layer below.
  Path encode_all(const std::vector<SegmentInput>& segments, State state) const override {
    if (segments.size() == 1) return Model::encode_all(segments, std::move(state));
    const auto all = joined(segments);
    const auto mask = all.target_mask();
    const auto tokens = read_tokens(all);  // (G B, T)
    const auto real = real_of(mask, tokens.size(0), tokens.size(1), tokens.device());
    const auto G = static_cast<int64_t>(segments.size()), B = tokens.size(0) / G, T = tokens.size(1);
    const auto first = of_rows(begun(segments[0], state), B);
    // The same steps from cache to cache, of the numbers of a pool's places (relative_stack.h) in place of what is
    // there.
    const int64_t C = cache_.places();
    const auto number = at::arange(1, 1 + C + G * T, first[1].options());
    State places{number.narrow(0, 0, C).masked_fill(right_aligned(first[1], C).logical_not(), 0), first[1]};
    places[0] = places[0].view({B, 1, C, 1});
    std::vector<Tensor> seen, filled;
    for (int64_t g = 0; g < G; ++g) {
      seen.push_back(places[0].view({B, C}));
      filled.push_back(places[1]);
      const auto own = number.narrow(0, C + g * T, T).view({1, 1, T, 1}).expand({B, 1, T, 1});
      places = cache_.next(places, own, real.narrow(0, g * B, B));
      places = cache_.restarted(places, g + 1 < G ? segments[g + 1].reset : segments[g].next_reset);
    }
    const auto of_segments = at::stack(seen), behind = places[0].view({1, B, C});
    std::vector<Tensor> caches;  // behind the last segment, of each layer
    const auto of_layer = [&](int64_t layer, const Tensor& input) {
      const auto pool = pool_of({first[0].select(1, layer)}, input);
      caches.push_back(picked(pool, behind));
      return picked(pool, of_segments);
    };
    auto ctx = start(all);
    const auto hidden = stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real,
                               RelativeCaches{C, at::cat(filled), of_layer}, ctx)
                            .first;
    return {hidden, {at::stack(caches, 1), places[1]}, {}, ctx};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    require(state.size() == 2, "SHAPE", "the state is two tensors, cache and filled; got ", state.size());
    if (!segment.reset.defined()) return state;
    const std::vector<int64_t> shape{segment.reset.size(0), shape_.layers, cache_.places(), shape_.width};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ",
            state[0].sizes());
    return cache_.restarted(state, segment.reset);
  }

  Embedding embedding_;
  RelativeStack stack_;
  TokenCache cache_;
  DecoderShape shape_;
};

}  // namespace

const bool transformer_xl_registered = models().add("transformer-xl", [](const Config& config, uint64_t seed) {
  return std::make_unique<TransformerXl>(config, seed);
});

}  // namespace memformer::nn
