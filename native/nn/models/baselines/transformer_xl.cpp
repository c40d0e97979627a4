// Transformer-XL (Dai et al., 2019), pre-LayerNorm: causal layers that also see their own inputs of the C tokens before
// the segment. These are its state, the cache; no gradient flows into it.
//   h~ = [cache, h]      A_ij = ((q_i + u) . k_j + (q_i + v) . W_r R_{i-j}) / sqrt(E)      R: sines, then cosines
// Input as in the decoder: [last token of source, target without its last]. The cache holds tokens alone, moved to its
// end; padding is neither seen nor kept.
// Letters: B batch, T tokens, C places of the cache, N = C + T, L layers, D width, H heads, E = D / H, R rows that are
// decoded, S slots.
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/positions/heads.h"
#include "nn/stacks.h"
#include "ops/decode_attention/decode_attention.h"
#include "ops/decode_linear/decode_linear.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// (B, T, D) -> (B, H, T, E)
Tensor heads_of(const Tensor& x, int64_t H) { return x.unflatten(-1, {H, -1}).transpose(1, 2); }

/// Divided by the root mean square of each head.
Tensor rms(const Tensor& x) {
  return x * at::rsqrt(x.to(accumulate_type(x.scalar_type())).square().mean(-1, true) + 1e-6).to(x.scalar_type());
}

/// R (N, D) of the distances 0 to N - 1: sines, then cosines.
Tensor distances(int64_t N, int64_t D, const at::TensorOptions& options) {
  const auto exact = options.dtype(at::kDouble);
  const auto rate = at::pow(10000.0, at::arange(0, D, 2, exact) / static_cast<double>(-D));
  const auto angle = at::arange(N, exact).unsqueeze(1) * rate;
  return at::cat({angle.sin(), angle.cos()}, 1).narrow(1, 0, D).to(options.dtype());
}

/// `prefix`.self_attention.{norm, query, key_value, out}, .relative.weight (D, D), .content_bias and .position_bias (D)
class RelativeAttention {
 public:
  RelativeAttention(Parameters& parameters, const Config& config, const std::string& prefix, double gain)
      : heads_(config.integer("heads")),
        normed_(config.flag("queryKeyNorm")),
        norm_(parameters, prefix + ".norm", config.integer("width")),
        query_(parameters, prefix + ".query", config.integer("width"), config.integer("width")),
        key_value_(parameters, prefix + ".key_value", config.integer("width"), 2 * config.integer("width"), 1.0, 2),
        out_(parameters, prefix + ".out", config.integer("width"), config.integer("width"), gain) {
    const int64_t D = config.integer("width");
    relative_ = parameters.normal(prefix + ".relative.weight", {D, D}, 1.0 / std::sqrt(2.0 * static_cast<double>(D)),
                                  Parameters::Decay::yes);
    content_bias_ = parameters.constant(prefix + ".content_bias", {D}, 0.0);
    position_bias_ = parameters.constant(prefix + ".position_bias", {D}, 0.0);
  }

  /// cache (B, C, D): this layer's inputs; seen (B, 1, T, N). Returns the layer's input (B, T, D).
  Tensor operator()(Residual& stream, const Tensor& cache, const Tensor& seen, ForwardContext& ctx) const {
    const auto normed = norm_(stream, ctx);
    const int64_t T = normed.size(1), C = cache.size(1), N = C + T;
    const auto before = norm_(cache, ctx);
    const auto [k, v] = keys_values(at::cat({before, normed}, 1), ctx);
    const auto q = norm_if(heads_of(query_(normed, ctx), heads_));
    const auto r = of_distances(N, ctx);                                                    // (H, N, E)
    const auto by_distance = at::matmul(q + bias(position_bias_, ctx), r.transpose(1, 2));  // (B, H, T, N)
    const auto place = at::arange(N, seen.options().dtype(at::kLong));
    const auto distance = (place.narrow(0, C, T).unsqueeze(1) - place.unsqueeze(0)).clamp_min(0);  // (T, N)
    const auto scores = (at::matmul(q + bias(content_bias_, ctx), k.transpose(2, 3)) +
                         by_distance.gather(3, distance.expand(by_distance.sizes()))) /
                        std::sqrt(static_cast<double>(q.size(3)));
    const auto hidden = -std::numeric_limits<double>::infinity();
    const auto weights = at::softmax(scores.masked_fill(seen.logical_not(), hidden), -1);
    stream.branch = out_.without_bias(merge(at::matmul(weights, v)), ctx);
    return stream.x;
  }

  /// Keys and values (B, H, C, E) of cached inputs.
  CrossAttention::KeysValues of_cache(const Tensor& cache, ForwardContext& ctx) const {
    const auto [k, v] = keys_values(norm_(cache, ctx), ctx);
    return {k, v};
  }

  /// One token a row, x (R, 1, D), behind the C cached ones, of which filled (R) are there. Returns the layer's input.
  Tensor decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& own, const KeyValueCache& context,
                const Tensor& filled, ForwardContext& ctx) const {
    const auto query = norm_.then(query_, stream, ctx);  // (R, 1, D); the branch is added to the stream
    const auto key_value = norm_.then(key_value_, stream, ctx).chunk(2, -1);
    const int64_t R = query.size(0), T = own.keys.size(2), C = context.keys.size(2), D = query.size(2);
    const auto split = [&](const Tensor& x) { return x.reshape({R, heads_, D / heads_}); };
    const auto key = norm_if(split(key_value[0])).reshape({R, D});
    const auto packed = at::cat({query.view({R, D}), key, key_value[1].reshape({R, D})}, 1);
    ops::decode_append(packed, {}, {}, rows.slots, rows.positions, own.keys, own.values);
    // A row sees its own tokens, nearest first, then the cached ones: place n is at distance n.
    const auto n = at::arange(C + T, rows.positions.options().dtype(at::kLong)).unsqueeze(0);
    const auto position = rows.positions.to(at::kLong).unsqueeze(1);
    const auto at_place = (C + position - n).clamp_min(0).view({R, 1, -1, 1}).expand({R, heads_, C + T, D / heads_});
    const auto slots = rows.slots.to(at::kLong);
    const auto gathered = [&](const Tensor& before, const Tensor& here) {
      return at::cat({before.index_select(0, slots), here.index_select(0, slots)}, 2).gather(2, at_place);
    };
    const auto k = gathered(context.keys, own.keys), v = gathered(context.values, own.values);
    const auto q = norm_if(split(query));
    const auto content = q + ctx.cast(content_bias_).view({heads_, -1}),
               by_place = q + ctx.cast(position_bias_).view({heads_, -1});
    // (q + u).k + (q + v).r as one product of heads twice as wide, whose scale decode_attention takes from their width.
    const auto wide_q = (at::cat({content, by_place}, -1) * std::sqrt(2.0)).reshape({R, 2 * D});
    const auto r = of_distances(C + T, ctx, true).unsqueeze(0).expand_as(k);
    const auto lengths = (position.squeeze(1) + 1 + filled).to(at::kInt);
    const auto read =
        ops::decode_attention(wide_q, at::cat({k, r}, -1), at::cat({v, at::zeros_like(v)}, -1), {}, lengths, {});
    const auto merged = read.view({R, heads_, -1}).narrow(2, 0, D / heads_).reshape({R, 1, D});
    stream.branch = out_.without_bias(merged, ctx);
    return stream.x;
  }

 private:
  std::pair<Tensor, Tensor> keys_values(const Tensor& normed, ForwardContext& ctx) const {
    const auto parts = key_value_(normed, ctx).chunk(2, -1);
    return {norm_if(heads_of(parts[0], heads_)), heads_of(parts[1], heads_)};
  }
  Tensor norm_if(const Tensor& x) const { return normed_ ? rms(x) : x; }
  Tensor bias(const Tensor& parameter, ForwardContext& ctx) const { return ctx.cast(parameter).view({heads_, 1, -1}); }
  /// W_r R: (H, N, E). When decoding, with the products that do not depend on how many rows there are.
  Tensor of_distances(int64_t N, ForwardContext& ctx, bool settled = false) const {
    const auto R = distances(N, relative_.size(0), relative_.options().dtype(ctx.compute()));
    const auto product =
        settled ? ops::decode_linear(R, ctx.working(relative_), {}, false) : at::matmul(R, ctx.cast(relative_).t());
    return product.view({N, heads_, -1}).transpose(0, 1);
  }

  int64_t heads_;
  bool normed_;  // queries and keys
  LayerNorm norm_;
  Linear query_, key_value_, out_;
  Tensor relative_, content_bias_, position_bias_;
};

struct Layer {
  RelativeAttention attention;
  FeedForward feed_forward;
};

class TransformerXl final : public Model {
 public:
  TransformerXl(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        layers_([&] {
          std::vector<Layer> made;
          const int64_t count = config.integer("decoderLayers"), D = config.integer("width");
          const double gain = residual_gain(config, config.text("residualStart"), count, 2);
          for (int64_t i = 0; i < count; ++i) {
            const auto prefix = "decoder." + std::to_string(i);
            made.push_back(
                {RelativeAttention(parameters_, config, prefix + ".self_attention", gain),
                 FeedForward(parameters_, prefix + ".feed_forward", D, config.integer("feedForward"), gain)});
          }
          return made;
        }()),
        norm_(parameters_, "decoder.norm", config.integer("width")),
        kept_(config.flag("memory")),
        cache_(config.integer("cacheLength")),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), cache_} {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override {
    return {{"cache", {shape_.layers, cache_, shape_.width}, parameters_.dtype(), false},
            {"filled", {}, at::kLong, false}};
  }
  State initial_state(int64_t rows) const override {
    const auto options = embedding_.weight().options().requires_grad(false);
    return {at::zeros({rows, shape_.layers, cache_, shape_.width}, options),
            at::zeros({rows}, options.dtype(at::kLong))};
  }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto hidden = run(input, {}, begun(segment, state), ctx).first;
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return shape_; }
  bool writes_from_decoder() const override { return true; }  // what tells how many tokens were fed

  /// Carried: the cache, how much of it is filled, and the layers' inputs of the segment's tokens (B, L, T, D).
  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto before = begun(segment, state);
    std::vector<CrossAttention::KeysValues> context;
    for (size_t i = 0; i < layers_.size(); ++i)
      context.push_back(layers_[i].attention.of_cache(before[0].select(1, static_cast<int64_t>(i)), ctx));
    const int64_t B = before[0].size(0);
    const auto inputs = at::zeros({B, shape_.layers, shape_.segment, shape_.width}, before[0].options());
    return {
        context, KeyMask(), last_token(segment.source, bos_).squeeze(1).to(at::kLong), {before[0], before[1], inputs}};
  }

  Tensor decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                     ForwardContext& ctx) const override {
    const auto slots = rows.slots.to(at::kLong), positions = rows.positions.to(at::kLong);
    const auto filled = decoding.carried[1].index_select(0, slots);
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < layers_.size(); ++i) {
      inputs.push_back(layers_[i].attention.decode(stream, rows, decoding.layers[i], decoding.context[i], filled, ctx));
      layers_[i].feed_forward(stream, ctx);
    }
    decoding.carried[2].transpose(1, 2).index_put_({slots, positions},
                                                   at::stack(inputs, 2).squeeze(1).to(parameters_.dtype()));
    return norm_(stream, ctx);
  }

  State next_state(const State& carried, const Tensor&, const KeyMask& mask, ForwardContext&) const override {
    const int64_t T = carried[2].size(2);
    return next(
        {carried[0], carried[1]}, carried[2],
        mask.none() ? at::ones({carried[1].size(0), T}, carried[1].options().dtype(at::kBool)) : mask.tokens(T));
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.target_mask();
    const auto tokens = read_tokens(segment);
    const int64_t T = tokens.size(1);
    const auto real = mask.none() ? at::ones(tokens.sizes(), tokens.options().dtype(at::kBool)) : mask.tokens(T);
    auto before = begun(segment, state);
    if (before[1].size(0) != tokens.size(0))  // one row, which all of them read
      before = {before[0].expand({tokens.size(0), -1, -1, -1}), before[1].expand({tokens.size(0)})};
    auto [hidden, inputs] = run(tokens, mask.none() ? Tensor() : real, before, ctx);
    if (!segment.writes) return {hidden, {}};
    return {hidden, restarted(next(before, inputs, real), segment.next_reset)};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// tokens (B, T), real (B, T) bool or undefined -> (B, T, D), normed, and the layers' inputs (B, L, T, D).
  std::pair<Tensor, Tensor> run(const Tensor& tokens, const Tensor& real, const State& state,
                                ForwardContext& ctx) const {
    const int64_t T = tokens.size(1), N = cache_ + T;
    const auto place = at::arange(N, tokens.options().dtype(at::kLong));
    const auto causal = place.unsqueeze(0).le(place.narrow(0, cache_, T).unsqueeze(1));    // (T, N)
    const auto cached = place.narrow(0, 0, cache_).ge(cache_ - state[1].unsqueeze(1));     // (B, C)
    const auto here = real.defined() ? real : at::ones(tokens.sizes(), cached.options());  // (B, T)
    const auto self = place.unsqueeze(0).eq(place.narrow(0, cache_, T).unsqueeze(1));      // a padded query has a key
    const auto seen = at::cat({cached, here}, 1).unsqueeze(1).logical_and(causal).logical_or(self).unsqueeze(1);
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < layers_.size(); ++i) {
      inputs.push_back(layers_[i].attention(stream, state[0].select(1, static_cast<int64_t>(i)), seen, ctx).detach());
      layers_[i].feed_forward(stream, ctx);
    }
    return {norm_(stream, ctx), at::stack(inputs, 1)};
  }

  /// The last C tokens of the cache and of the segment, inputs (B, L, T, D), real (B, T).
  State next(const State& state, const Tensor& inputs, const Tensor& real) const {
    const auto place = at::arange(cache_, state[1].options()).unsqueeze(0);
    const auto there = at::cat({place.ge(cache_ - state[1].unsqueeze(1)), real}, 1);  // (B, N)
    const auto order = there.to(at::kByte).argsort(/*stable=*/true, 1).narrow(1, real.size(1), cache_);
    const auto all = at::cat({state[0], inputs.to(state[0].scalar_type())}, 2);  // (B, L, N, D)
    const auto kept =
        all.gather(2, order.view({order.size(0), 1, cache_, 1}).expand({-1, all.size(1), -1, all.size(3)}));
    const auto filled = (state[1] + real.sum(1)).clamp_max(cache_);
    // What is no token is nothing, so that equal texts have equal caches.
    const auto empty = place.lt(cache_ - filled.unsqueeze(1)).view({-1, 1, cache_, 1});
    return {kept.masked_fill(empty, 0.0).detach(), filled};
  }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    require(state.size() == 2, "SHAPE", "the state is two tensors, cache and filled; got ", state.size());
    if (!segment.reset.defined()) return state;
    const std::vector<int64_t> shape{segment.reset.size(0), shape_.layers, cache_, shape_.width};
    require(state[0].sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ",
            state[0].sizes());
    return restarted(state, segment.reset);
  }

  /// Rows that start (B) bool have an empty cache; all of them in a twin. Undefined: none.
  State restarted(const State& state, const Tensor& starts) const {
    if (!starts.defined()) return state;
    const auto rows = kept_ ? starts : at::ones_like(starts);
    return {state[0].masked_fill(rows.view({-1, 1, 1, 1}), 0.0), state[1].masked_fill(rows, 0)};
  }

  Embedding embedding_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
  bool kept_;
  int64_t cache_;
  DecoderShape shape_;
};

}  // namespace

const bool transformer_xl_registered = models().add("transformer-xl", [](const Config& config, uint64_t seed) {
  return std::make_unique<TransformerXl>(config, seed);
});

}  // namespace memformer::nn
