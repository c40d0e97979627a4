// The Compressive Transformer (Rae et al., 2020): Transformer-XL's layers, which also see what a convolution makes of
// the tokens that leave the cache, c of them at a time.
//   m' = W [h_1; ..; h_c] + b      keys of a layer: [compressed, cache, segment], numbered through
// The convolution of a layer learns from a loss of its own, attention reconstruction: what the segment's tokens read by
// content of the tokens that leave, they should read of what stands for them.
//   L = sum_layers mean_t mean_D (attn(h_t, left) - attn(h_t, W left))^2
// Its gradient reaches the convolution alone, which no other reaches, and nothing flows into the state.
// observe() shows it, `compression.loss`.
// Tokens leave c at a time: C + c - 1 may be in the cache. Padding is neither seen nor kept, and no token is lost.
// Letters: B batch, T tokens, C tokens of the cache, K of the compressed memory, n that leave at most, L layers, D
// width.
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
    const int64_t B = inputs.size(0), T = inputs.size(2);
    const auto real = mask.none() ? at::ones({B, T}, carried[kFilled].options().dtype(at::kBool)) : mask.tokens(T);
    return next(carried, inputs, real, leaving(carried, inputs, real));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.target_mask();
    const auto tokens = read_tokens(segment);
    const int64_t B = tokens.size(0), T = tokens.size(1);
    const auto real = mask.none() ? at::ones(tokens.sizes(), tokens.options().dtype(at::kBool)) : mask.tokens(T);
    auto before = begun(segment, state);
    for (auto& part : before) {
      auto shape = part.sizes().vec();
      shape[0] = B;  // of one row, which all of them read
      part = part.expand(shape);
    }
    const auto [hidden, inputs] = stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real, seen_of(before), ctx);
    if (!segment.writes) return {hidden, {}};
    const auto left = leaving(before, inputs, real);
    const auto after = restarted(next(before, inputs, real, left), segment.next_reset);
    const bool observed = ctx.observation() != nullptr && ctx.observation()->wants("compression.loss");
    if (!at::GradMode::is_enabled() && !observed) return {hidden, after};
    const auto loss = reconstruction(inputs.to(parameters_.dtype()), real, left);
    if (observed) ctx.observation()->add("compression.loss", loss);
    return {hidden, after, loss};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// The tokens that leave the cache, oldest first, and what stands for them.
  struct Leaving {
    Tensor tokens;  ///< (B, L, n c, D), zeros where there is none
    Tensor made;    ///< (B, L, n, D)
    Tensor groups;  ///< (B) int64, how many of the n there are
    Tensor cached;  ///< (B, L, C + c - 1 + T, D), the cache and the segment, tokens at the end
  };
  Leaving leaving(const State& before, const Tensor& inputs, const Tensor& real) const {
    const int64_t T = inputs.size(2), D = shape_.width, N = cache_ + T, n = (rate_ - 1 + T) / rate_;
    const auto all = moved_right(at::cat({before[kCache], inputs.to(before[kCache].scalar_type())}, 2),
                                 at::cat({right_aligned(before[kFilled], cache_), real}, 1));
    const auto count = before[kFilled] + real.sum(1);  // (B)
    const auto groups = at::floor_divide((count - (cache_ - rate_ + 1)).clamp_min(0), rate_);
    const auto index = at::arange(n * rate_, count.options()).unsqueeze(0);  // (1, n c)
    const auto from = (N - count.unsqueeze(1) + index).clamp_max(N - 1);     // (B, n c)
    const auto absent = index.ge(groups.unsqueeze(1) * rate_);
    const auto tokens = all.gather(2, from.view({-1, 1, n * rate_, 1}).expand({-1, shape_.layers, -1, D}))
                            .masked_fill(absent.view({-1, 1, n * rate_, 1}), 0.0);
    std::vector<Tensor> made;
    for (size_t i = 0; i < weights_.size(); ++i)
      made.push_back(
          at::linear(tokens.select(1, static_cast<int64_t>(i)).reshape({-1, n, rate_ * D}), weights_[i], biases_[i]));
    return {tokens, at::stack(made, 1), groups, all};
  }

  State next(const State& before, const Tensor& inputs, const Tensor& real, const Leaving& left) const {
    const int64_t T = inputs.size(2), n = left.made.size(2);
    const auto filled = before[kFilled] + real.sum(1) - left.groups * rate_;
    const auto joined = moved_right(at::cat({before[kCompressed], left.made}, 2),
                                    at::cat({right_aligned(before[kCompressedFilled], compressed_), of(left, n)}, 1));
    const auto compressed_filled = (before[kCompressedFilled] + left.groups).clamp_max(compressed_);
    // What is no token is nothing, so that equal texts have equal states.
    const auto kept = [](const Tensor& part, const Tensor& there) {
      return part.masked_fill(right_aligned(there, part.size(2)).logical_not().view({-1, 1, part.size(2), 1}), 0.0)
          .detach();
    };
    return {kept(left.cached.narrow(2, T, cache_), filled), filled,
            kept(joined.narrow(2, n, compressed_), compressed_filled), compressed_filled};
  }

  /// (B, n) bool: the groups that there are.
  static Tensor of(const Leaving& left, int64_t n) {
    return at::arange(n, left.groups.options()).unsqueeze(0).lt(left.groups.unsqueeze(1));
  }

  /// The loss of the convolutions, (): inputs (B, L, T, D), real (B, T).
  Tensor reconstruction(const Tensor& inputs, const Tensor& real, const Leaving& left) const {
    const int64_t n = left.made.size(2);
    const auto none = left.groups.eq(0).unsqueeze(1);  // its softmax has to see something
    const auto there = of(left, n).logical_or(none);
    const auto counted = real.logical_and(none.logical_not());  // (B, T)
    auto sum = at::zeros({}, inputs.options());
    for (int64_t i = 0; i < shape_.layers; ++i) {
      const auto& attention = stack_.attention(static_cast<size_t>(i));
      const auto h = inputs.select(1, i);
      const auto wanted = attention.content_read(h, left.tokens.select(1, i), there.repeat_interleave(rate_, 1));
      const auto found = attention.content_read(h, left.made.select(1, i), there);  // (B, H, T, E)
      const auto error = (found - wanted).square().mean(at::IntArrayRef{1, 3});     // (B, T)
      sum = sum + error.masked_fill(counted.logical_not(), 0.0).sum();
    }
    return sum / real.sum().clamp_min(1);
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
