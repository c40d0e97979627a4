// The Compressive Transformer (Rae et al., 2020): Transformer-XL's layers, which also see what a convolution makes of
// the tokens that leave the cache, c of them at a time.
//   m' = W [h_1; ..; h_c] + b      keys of a layer: [compressed, cache, segment], numbered through
// The convolution of a layer learns from a loss of its own, attention reconstruction: what the segment's tokens read by
// content of the tokens that leave, they should read of what stands for them.
//   L = sum_layers mean_t mean_D (attn(h_t, left) - attn(h_t, W left))^2
// Its gradient reaches the convolution alone, which no other reaches, and nothing flows into the state.
// observe() shows it, `compression.loss`.
// Tokens leave c at a time: C + c - 1 may be in the cache. Padding is neither seen nor kept, and no token is lost.
// Letters: B batch, T tokens, G segments, C tokens of the cache, K of the compressed memory, n that leave at most, L
// layers, D width.
#include "nn/models/baselines/layout_state.h"
#include "nn/models/baselines/relative_stack.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// The parts of the state, in its order, and what decoding carries behind them.
enum Part : size_t { kCache, kFilled, kCompressed, kCompressedFilled, kParts, kSeen = kParts, kInputs };

class CompressiveTransformer final : public Model {
 public:
  CompressiveTransformer(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        stack_(parameters_, config),
        kept_(config.flag("memory")),
        rate_(config.integer("compressionRate")),
        cache_(config.integer("cacheLength") + rate_ - 1),
        compressed_(config.integer("compressedLength")),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), compressed_ + cache_} {
    // It starts as the mean of the c tokens.
    const auto start = at::eye(shape_.width, parameters_.dtype()).repeat({1, rate_}) / static_cast<double>(rate_);
    for (int64_t i = 0; i < shape_.layers; ++i) {
      const auto name = "decoder." + std::to_string(i) + ".compression.";
      weights_.push_back(parameters_.add(name + "weight", start.clone(), Parameters::Decay::yes));
      biases_.push_back(parameters_.constant(name + "bias", {shape_.width}, 0.0));
    }
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override {
    const auto dtype = parameters_.dtype();
    return {{"cache", {shape_.layers, cache_, shape_.width}, dtype, false},
            {"filled", {}, at::kLong, false},
            {"compressed", {shape_.layers, compressed_, shape_.width}, dtype, false},
            {"compressed_filled", {}, at::kLong, false}};
  }
  State initial_state(int64_t rows) const override { return zero_state(state_layout(), rows, device()); }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto hidden = stack_(embedding_(input, ctx), {}, seen_of(begun(segment, state)), ctx).first;
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }
  bool writes_from_decoder() const override { return true; }  // what tells how many tokens were fed

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    auto carried = begun(segment, state);
    const auto seen = seen_of(carried);
    carried.push_back(seen.filled);
    carried.push_back(
        at::zeros({seen.filled.size(0), shape_.layers, shape_.segment, shape_.width}, seen.inputs.options()));
    return {stack_.project_keys_values(seen, ctx), KeyMask(), last_token(segment.source, bos_).squeeze(1).to(at::kLong),
            carried};
  }
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    const auto slots = rows.slots.to(at::kLong), positions = rows.positions.to(at::kLong);
    const auto filled = decoding.carried[kSeen].index_select(0, slots);
    const auto [hidden, inputs] = stack_.decode(embedding_(tokens, ctx), decoding, rows, filled, ctx);
    decoding.carried[kInputs].transpose(1, 2).index_put_({slots, positions}, inputs.squeeze(2).to(parameters_.dtype()));
    return hidden;
  }
  State next_state(const State& carried, const Tensor&, const KeyMask& mask, ForwardContext&) const override {
    const auto& inputs = carried[kInputs];
    const int64_t T = inputs.size(2);
    const auto real = real_of(mask, inputs.size(0), T, inputs.device());
    const auto left = leaving(carried, inputs, real);
    return next(carried, left, made_of(compressed(left)), real.sum(1), T);
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.target_mask();
    const auto tokens = read_tokens(segment);
    const auto real = real_of(mask, tokens.size(0), tokens.size(1), tokens.device());
    const auto before = of_rows(begun(segment, state), tokens.size(0));
    const auto [hidden, of_layers] =
        stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real, seen_of(before), ctx);
    if (!segment.writes) return {hidden, {}};
    const auto inputs = at::stack(of_layers, 1);  // (B, L, T, D)
    const auto left = leaving(before, inputs, real);
    const auto layers = compressed(left);
    const auto after = restarted(next(before, left, made_of(layers), real.sum(1), real.size(1)), segment.next_reset);
    const bool observed = ctx.observation() != nullptr && ctx.observation()->wants("compression.loss");
    if (!at::GradMode::is_enabled() && !observed) return {hidden, after};
    const auto loss = reconstruction(of_layers, real, left.groups, layers, /*G=*/1).squeeze(0);
    if (observed) ctx.observation()->add("compression.loss", loss);
    return {hidden, after, loss};
  }

  /// Layer by layer, as Transformer-XL: what leaves the cache of a layer, and what stands for it, is known with the
  /// layer's inputs.
  Path encode_all(const std::vector<SegmentInput>& segments, State state) const override {
    if (segments.size() == 1) return Model::encode_all(segments, std::move(state));
    const auto all = joined(segments);
    const auto mask = all.target_mask();
    const auto tokens = read_tokens(all);  // (G B, T)
    const auto real = real_of(mask, tokens.size(0), tokens.size(1), tokens.device());
    const auto G = static_cast<int64_t>(segments.size()), B = tokens.size(0) / G, T = tokens.size(1), n = most(T);
    const auto first = of_rows(begun(segments[0], state), B);
    // The same steps from state to state, of the numbers of a pool's places (relative_stack.h) in place of what is
    // there: compressed, cache, the tokens of all segments, and what is made in each of them.
    const auto number = at::arange(1, 1 + compressed_ + cache_ + G * (T + n), first[kFilled].options());
    const auto numbers = [&](int64_t from, int64_t count, const Tensor& there) {
      const auto of = number.narrow(0, from, count);
      const auto each = there.defined() ? of.masked_fill(there.logical_not(), 0) : of.unsqueeze(0).expand({B, count});
      return each.view({B, 1, count, 1});
    };
    State places{numbers(compressed_, cache_, right_aligned(first[kFilled], cache_)), first[kFilled],
                 numbers(0, compressed_, right_aligned(first[kCompressedFilled], compressed_)),
                 first[kCompressedFilled]};
    std::vector<Tensor> seen, filled, from, groups;
    for (int64_t g = 0; g < G; ++g) {
      const auto sees = seen_of(places);
      const auto here = real.narrow(0, g * B, B);
      const auto left = leaving(places, numbers(compressed_ + cache_ + g * T, T, {}), here);
      seen.push_back(sees.inputs.flatten(1));
      filled.push_back(sees.filled);
      from.push_back(left.tokens.flatten(1));
      groups.push_back(left.groups);
      places = next(places, left, numbers(compressed_ + cache_ + G * T + g * n, n, {}), here.sum(1), T);
      places = restarted(places, g + 1 < G ? segments[g + 1].reset : segments[g].next_reset);
    }
    const auto of_segments = at::stack(seen), leave = at::stack(from);
    const auto cache_behind = places[kCache].view({1, B, cache_}),
               compressed_behind = places[kCompressed].view({1, B, compressed_});
    std::vector<Tensor> caches, memories;  // behind the last segment, of each layer
    std::vector<Compressed> layers;
    const auto of_layer = [&](int64_t layer, const Tensor& input) {
      const auto before = pool_of({first[kCompressed].select(1, layer), first[kCache].select(1, layer)}, input);
      layers.push_back(compress(layer, picked(before, leave)));
      const auto made = layers.back().made.detach().view({G, B, n, -1}).transpose(0, 1);
      const auto pool = at::cat({before, made.reshape({B, G * n, -1})}, 1);
      caches.push_back(picked(pool, cache_behind));
      memories.push_back(picked(pool, compressed_behind));
      return picked(pool, of_segments);
    };
    auto ctx = start(all);
    const auto [hidden, inputs] = stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real,
                                         RelativeCaches{compressed_ + cache_, at::cat(filled), of_layer}, ctx);
    std::vector<Tensor> beside;
    if (at::GradMode::is_enabled()) beside = reconstruction(inputs, real, at::cat(groups), layers, G).unbind(0);
    return {hidden,
            {at::stack(caches, 1), places[kFilled], at::stack(memories, 1), places[kCompressedFilled]},
            std::move(beside),
            ctx};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// n: how many groups leave with a segment of T tokens, at most.
  int64_t most(int64_t T) const { return (rate_ - 1 + T) / rate_; }

  /// The tokens that leave the cache, oldest first. L and D are those of what the state holds, numbers of places too.
  struct Leaving {
    Tensor tokens;  ///< (B, L, n c, D), zeros where there is none
    Tensor groups;  ///< (B) int64, how many of the n there are
    Tensor cached;  ///< (B, L, C + c - 1 + T, D), the cache and the segment, tokens at the end
  };
  Leaving leaving(const State& before, const Tensor& inputs, const Tensor& real) const {
    const int64_t T = inputs.size(2), N = cache_ + T, n = most(T);
    const auto all = moved_right(at::cat({before[kCache], inputs.to(before[kCache].scalar_type())}, 2),
                                 at::cat({right_aligned(before[kFilled], cache_), real}, 1));
    const auto count = before[kFilled] + real.sum(1);  // (B)
    const auto groups = at::floor_divide((count - (cache_ - rate_ + 1)).clamp_min(0), rate_);
    const auto index = at::arange(n * rate_, count.options()).unsqueeze(0);  // (1, n c)
    const auto from = (N - count.unsqueeze(1) + index).clamp_max(N - 1);     // (B, n c)
    const auto absent = index.ge(groups.unsqueeze(1) * rate_);
    const auto tokens = all.gather(2, from.view({-1, 1, n * rate_, 1}).expand({-1, all.size(1), -1, all.size(3)}))
                            .masked_fill(absent.view({-1, 1, n * rate_, 1}), 0);
    return {tokens, groups, all};
  }

  /// What leaves a layer, and what stands for it.
  struct Compressed {
    Tensor tokens;  ///< (B, n c, D)
    Tensor made;    ///< (B, n, D)
  };
  Compressed compress(int64_t layer, const Tensor& tokens) const {
    const auto i = static_cast<size_t>(layer);
    return {tokens, at::linear(tokens.reshape({tokens.size(0), -1, rate_ * shape_.width}), weights_[i], biases_[i])};
  }
  /// Of every layer.
  std::vector<Compressed> compressed(const Leaving& left) const {
    std::vector<Compressed> layers;
    for (int64_t i = 0; i < shape_.layers; ++i) layers.push_back(compress(i, left.tokens.select(1, i)));
    return layers;
  }
  /// (B, L, n, D)
  static Tensor made_of(const std::vector<Compressed>& layers) {
    std::vector<Tensor> made;
    for (const auto& layer : layers) made.push_back(layer.made);
    return at::stack(made, 1);
  }

  /// The state behind a segment of T tokens, of which `tokens` (B) are there; made (B, L, n, D).
  State next(const State& before, const Leaving& left, const Tensor& made, const Tensor& tokens, int64_t T) const {
    const int64_t n = made.size(2);
    const auto filled = before[kFilled] + tokens - left.groups * rate_;
    const auto joined =
        moved_right(at::cat({before[kCompressed], made}, 2),
                    at::cat({right_aligned(before[kCompressedFilled], compressed_), of(left.groups, n)}, 1));
    const auto compressed_filled = (before[kCompressedFilled] + left.groups).clamp_max(compressed_);
    // What is no token is nothing, so that equal texts have equal states.
    const auto kept = [](const Tensor& part, const Tensor& there) {
      return part.masked_fill(right_aligned(there, part.size(2)).logical_not().view({-1, 1, part.size(2), 1}), 0)
          .detach();
    };
    return {kept(left.cached.narrow(2, T, cache_), filled), filled,
            kept(joined.narrow(2, n, compressed_), compressed_filled), compressed_filled};
  }

  /// (B, n) bool: the groups that there are, of groups (B).
  static Tensor of(const Tensor& groups, int64_t n) {
    return at::arange(n, groups.options()).unsqueeze(0).lt(groups.unsqueeze(1));
  }

  /// The losses of the convolutions, one for each of G segments, (G): of each layer its inputs (G B, T, D) and what
  /// left it; real (G B, T), groups (G B).
  Tensor reconstruction(const std::vector<Tensor>& inputs, const Tensor& real, const Tensor& groups,
                        const std::vector<Compressed>& layers, int64_t G) const {
    const int64_t n = layers[0].made.size(1);
    const auto none = groups.eq(0).unsqueeze(1);  // its softmax has to see something
    const auto there = of(groups, n).logical_or(none);
    const auto counted = real.logical_and(none.logical_not());  // (G B, T)
    auto sum = at::zeros({G}, layers[0].made.options());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& attention = stack_.attention(i);
      const auto h = inputs[i].to(parameters_.dtype());
      const auto wanted = attention.content_read(h, layers[i].tokens, there.repeat_interleave(rate_, 1));
      const auto found = attention.content_read(h, layers[i].made, there);       // (G B, H, T, E)
      const auto error = (found - wanted).square().mean(at::IntArrayRef{1, 3});  // (G B, T)
      sum = sum + error.masked_fill(counted.logical_not(), 0.0).view({G, -1}).sum(1);
    }
    return sum / real.view({G, -1}).sum(1).clamp_min(1);
  }

  /// What the layers see before the segment: the compressed memory, then the cache, without a gap.
  RelativeCache seen_of(const State& state) const {
    const auto there =
        at::cat({right_aligned(state[kCompressedFilled], compressed_), right_aligned(state[kFilled], cache_)}, 1);
    return {moved_right(at::cat({state[kCompressed], state[kCache]}, 2), there),
            state[kCompressedFilled] + state[kFilled]};
  }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    require(state.size() == kParts, "SHAPE",
            "the state is four tensors: cache, filled, compressed, compressed_filled; got ", state.size());
    if (!segment.reset.defined()) return state;
    require_parts(state_layout(), state, segment.reset.size(0));
    return restarted(state, segment.reset);
  }

  /// Rows that start (B) bool have nothing cached; all of them in a twin. Undefined: none.
  State restarted(State state, const Tensor& starts) const {
    if (!starts.defined()) return state;
    const auto rows = kept_ ? starts : at::ones_like(starts);
    for (auto& part : state) part = part.masked_fill(part.dim() == 1 ? rows : rows.view({-1, 1, 1, 1}), 0);
    return state;
  }

  Embedding embedding_;
  RelativeStack stack_;
  bool kept_;
  int64_t rate_, cache_, compressed_;  // places
  DecoderShape shape_;
  std::vector<Tensor> weights_, biases_;  // (D, c D) and (D), a layer each
};

}  // namespace

const bool compressive_transformer_registered = models().add(
    "compressive-transformer",
    [](const Config& config, uint64_t seed) { return std::make_unique<CompressiveTransformer>(config, seed); });

}  // namespace memformer::nn
