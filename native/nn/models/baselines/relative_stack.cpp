#include "nn/models/baselines/relative_stack.h"

#include "nn/positions/heads.h"
#include "nn/stacks.h"
#include "ops/decode_attention/decode_attention.h"
#include "ops/decode_linear/decode_linear.h"
#include "ops/head_norm/head_norm.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// (..., P, D) -> (..., H, P, E)
Tensor heads_of(const Tensor& x, int64_t H) { return x.unflatten(-1, {H, -1}).transpose(-3, -2); }

/// R (N, D) of distances (N), float64: sines, then cosines.
Tensor of_distances(const Tensor& distances, int64_t D, const at::TensorOptions& options) {
  const auto rate = at::pow(10000.0, at::arange(0, D, 2, distances.options()) / static_cast<double>(-D));
  const auto angle = distances.unsqueeze(1) * rate;
  return at::cat({angle.sin(), angle.cos()}, 1).narrow(1, 0, D).to(options.dtype());
}

/// x (B, H, T, N) by distance from N - 1 down to 0 -> the same by place, of queries in the last T of N places: query
/// i's row moves left by T - 1 - i. What lies behind a query is of no distance. It is Transformer-XL's shift, whose
/// gradient is a copy too, where that of a gather would be added number by number.
Tensor shifted_by_query(const Tensor& x) {
  const int64_t B = x.size(0), H = x.size(1), T = x.size(2), N = x.size(3);
  return at::constant_pad_nd(x, {1, 0}).view({B, H, N + 1, T}).narrow(2, 1, N).reshape({B, H, T, N});
}

}  // namespace

RelativeAttention::RelativeAttention(Parameters& parameters, const Config& config, const std::string& prefix,
                                     double gain)
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

Tensor RelativeAttention::operator()(Residual& stream, const Cached& cached, const Tensor& seen,
                                     const Tensor& distances, ForwardContext& ctx) const {
  const auto normed = norm_(stream, ctx);
  const auto before = norm_(cached(stream.x), ctx);
  const auto [k, v] = keys_values(at::cat({before, normed}, 1), ctx);
  const auto q = heads_of(norm_if(query_(normed, ctx)), heads_);
  const auto r = heads_of(at::matmul(distances, ctx.cast(relative_).t()), heads_);  // (H, N, E)
  // What is scaled and added is small, or the product's own addend: each pass over all pairs of tokens counts.
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const auto by_place = shifted_by_query(at::matmul((q + bias(position_bias_, ctx)) * scale, r.transpose(1, 2)));
  const auto content = (q + bias(content_bias_, ctx)) * scale;
  const auto scores = at::baddbmm(by_place.flatten(0, 1), content.flatten(0, 1), k.transpose(2, 3).flatten(0, 1));
  {
    // In place, and unknown to autograd: softmax gives what is hidden a gradient of zero by itself.
    const at::NoGradGuard no_grad;
    scores.detach().view_as(by_place).masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity());
  }
  const auto weights = at::softmax(scores.view_as(by_place), -1);
  stream.branch = out_.without_bias(merge(at::matmul(weights, v)), ctx);
  return stream.x;
}

CrossAttention::KeysValues RelativeAttention::of_cache(const Tensor& cache, ForwardContext& ctx) const {
  const auto [k, v] = keys_values(norm_(cache, ctx), ctx);
  return {k, v};
}

Tensor RelativeAttention::decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& own,
                                 const KeyValueCache& context, const Tensor& filled, const Tensor& distances,
                                 ForwardContext& ctx) const {
  const auto query = norm_.then(query_, stream, ctx);  // (R, 1, D); the branch is added to the stream
  const auto [key, value] = split(norm_.then(key_value_, stream, ctx));
  const int64_t R = query.size(0), T = own.keys.size(2), C = context.keys.size(2), D = query.size(2);
  const auto packed = at::cat({query.view({R, D}), key.reshape({R, D}), value.reshape({R, D})}, 1);
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
  const auto q = norm_if(query).view({R, heads_, -1});
  const auto content = q + ctx.cast(content_bias_).view({heads_, -1}),
             by_place = q + ctx.cast(position_bias_).view({heads_, -1});
  // (q + u).k + (q + v).r as one product of heads twice as wide, whose scale decode_attention takes from their width.
  const auto wide_q = (at::cat({content, by_place}, -1) * std::sqrt(2.0)).reshape({R, 2 * D});
  const auto r = heads_of(ops::decode_linear(distances, ctx.working(relative_), {}, false), heads_);
  const auto lengths = (position.squeeze(1) + 1 + filled).to(at::kInt);
  const auto read = ops::decode_attention(wide_q, at::cat({k, r.expand_as(k)}, -1), at::cat({v, at::zeros_like(v)}, -1),
                                          {}, lengths, {});
  const auto merged = read.view({R, heads_, -1}).narrow(2, 0, D / heads_).reshape({R, 1, D});
  stream.branch = out_.without_bias(merged, ctx);
  return stream.x;
}

Tensor RelativeAttention::content_read(const Tensor& h, const Tensor& others, const Tensor& there) const {
  const auto normed = [&](const Tensor& x) {
    const auto [weight, bias] = norm_.parameters();
    return at::layer_norm(x, {x.size(2)}, weight.detach(), bias.detach(), 1e-5);
  };
  const auto projected = [&](const Linear& linear, const Tensor& x) {
    const auto [weight, bias] = linear.parameters();
    return at::linear(normed(x), weight.detach(), bias.detach());
  };
  const auto q = heads_of(norm_if(projected(query_, h)), heads_);
  const auto [k, v] = split(projected(key_value_, others));
  const auto scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  const auto hidden = there.logical_not().view({there.size(0), 1, 1, -1});
  return at::matmul(at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1), v);
}

std::pair<Tensor, Tensor> RelativeAttention::keys_values(const Tensor& normed, ForwardContext& ctx) const {
  return split(key_value_(normed, ctx));
}

std::pair<Tensor, Tensor> RelativeAttention::split(const Tensor& key_value) const {
  const int64_t D = key_value.size(-1) / 2;
  const auto normed = normed_ ? ops::head_norm(key_value, {D / heads_, 2 * heads_, heads_}) : key_value;
  return {heads_of(normed.narrow(-1, 0, D), heads_), heads_of(normed.narrow(-1, D, D), heads_)};
}

Tensor RelativeAttention::norm_if(const Tensor& query) const {
  return normed_ ? ops::head_norm(query, {query.size(-1) / heads_, heads_, heads_}) : query;
}

Tensor RelativeAttention::bias(const Tensor& parameter, ForwardContext& ctx) const {
  return ctx.cast(parameter).view({heads_, 1, -1});
}

RelativeStack::RelativeStack(Parameters& parameters, const Config& config, bool reads_memory)
    : slots_(reads_memory ? config.integer("memorySlots") + config.integer("constantSlots") : 0),
      layers_([&] {
        std::vector<Layer> made;
        const int64_t count = config.integer("decoderLayers"), D = config.integer("width");
        const double gain = residual_gain(config, config.text("residualStart"), count, reads_memory ? 3 : 2);
        for (int64_t i = 0; i < count; ++i) {
          const auto prefix = "decoder." + std::to_string(i);
          RelativeAttention attention(parameters, config, prefix + ".self_attention", gain);
          std::optional<CrossAttention> memory_read;
          if (reads_memory)
            memory_read.emplace(parameters, config, prefix + ".memory_read", CrossAttention::Context::memory,
                                read_gain(config, count));
          made.push_back({std::move(attention), std::move(memory_read),
                          FeedForward(parameters, prefix + ".feed_forward", D, config.integer("feedForward"), gain)});
        }
        return made;
      }()),
      norm_(parameters, "decoder.norm", config.integer("width")) {}

Tensor pool_of(const std::vector<Tensor>& first, const Tensor& input) {
  const auto options = first[0].options();
  const int64_t B = first[0].size(0), D = first[0].size(2);
  std::vector<Tensor> parts{at::zeros({B, 1, D}, options)};
  parts.insert(parts.end(), first.begin(), first.end());
  const auto tokens = input.detach().to(options.dtype()).view({-1, B, input.size(1), D}).transpose(0, 1);
  parts.push_back(tokens.reshape({B, -1, D}));
  return at::cat(parts, 1);
}

Tensor picked(const Tensor& pool, const Tensor& places) {
  const int64_t B = pool.size(0), P = pool.size(1), D = pool.size(2);
  const auto rows = places + (at::arange(B, places.options()) * P).view({1, B, 1});
  return pool.view({-1, D}).index_select(0, rows.flatten()).view({-1, places.size(2), D});
}

std::pair<Tensor, std::vector<Tensor>> RelativeStack::operator()(Tensor x, const Tensor& real,
                                                                 const RelativeCache& cache, ForwardContext& ctx,
                                                                 const MemoryKeysValues& memory) const {
  const auto of_layer = [&](int64_t layer, const Tensor&) { return cache.inputs.select(1, layer); };
  return (*this)(std::move(x), real, RelativeCaches{cache.inputs.size(2), cache.filled, of_layer}, ctx, memory);
}

std::pair<Tensor, std::vector<Tensor>> RelativeStack::operator()(Tensor x, const Tensor& real,
                                                                 const RelativeCaches& caches, ForwardContext& ctx,
                                                                 const MemoryKeysValues& memory) const {
  const int64_t C = caches.places;
  const auto& filled = caches.filled;
  const int64_t T = x.size(1), N = C + T;
  const auto place = at::arange(N, filled.options());
  const auto own = place.narrow(0, C, T).unsqueeze(1);  // (T, 1)
  const auto causal = place.unsqueeze(0).le(own);       // (T, N)
  const auto cached = right_aligned(filled, C);         // (B, C)
  const auto here = real.defined() ? real : at::ones({x.size(0), T}, cached.options());
  const auto self = place.unsqueeze(0).eq(own);  // a padded query has a key
  const auto seen = at::cat({cached, here}, 1).unsqueeze(1).logical_and(causal).logical_or(self).unsqueeze(1);
  const auto options = x.options();
  const auto distances =
      of_distances(at::arange(N - 1, -1, -1, options.dtype(at::kDouble)), x.size(2), options.dtype(ctx.compute()));
  Residual stream{std::move(x), std::nullopt};
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto of_layer = [&, i](const Tensor& input) { return caches.of_layer(static_cast<int64_t>(i), input); };
    inputs.push_back(layers_[i].attention(stream, of_layer, seen, distances, ctx).detach());
    if (slots_ > 0) (*layers_[i].memory_read)(stream, memory[i], KeyMask(), ctx);
    layers_[i].feed_forward(stream, ctx);
  }
  return {norm_(stream, ctx), std::move(inputs)};
}

std::vector<CrossAttention::KeysValues> RelativeStack::project_keys_values(const RelativeCache& cache,
                                                                           ForwardContext& ctx) const {
  std::vector<CrossAttention::KeysValues> context;
  for (size_t i = 0; i < layers_.size(); ++i)
    context.push_back(layers_[i].attention.of_cache(cache.inputs.select(1, static_cast<int64_t>(i)), ctx));
  return context;
}

RelativeStack::MemoryKeysValues RelativeStack::project_memory(const MemoryView& view, int64_t queries,
                                                              ForwardContext& ctx) const {
  std::vector<const CrossAttention*> reads;
  for (const auto& layer : layers_) reads.push_back(&*layer.memory_read);
  return CrossAttention::project_memory_keys_values(reads, view, queries, ctx);
}

std::pair<Tensor, Tensor> RelativeStack::decode(Tensor x, const DecodeState& state, const DecodeRows& rows,
                                                const Tensor& filled, ForwardContext& ctx) const {
  const int64_t C = state.context[0].keys.size(2) - slots_, N = state.layers[0].keys.size(2) + C;
  const auto part = [](const KeyValueCache& whole, int64_t from, int64_t count) {
    return KeyValueCache{whole.keys.narrow(2, from, count), whole.values.narrow(2, from, count)};
  };
  auto of_memory = rows;
  if (slots_ > 0) of_memory.context_lengths = at::full_like(rows.context_lengths, slots_);
  const auto options = x.options();
  const auto distances =
      of_distances(at::arange(N, options.dtype(at::kDouble)), x.size(2), options.dtype(ctx.compute()));
  Residual stream{std::move(x), std::nullopt};
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < layers_.size(); ++i) {
    inputs.push_back(layers_[i].attention.decode(stream, rows, state.layers[i], part(state.context[i], 0, C), filled,
                                                 distances, ctx));
    if (slots_ > 0) layers_[i].memory_read->decode(stream, of_memory, part(state.context[i], C, slots_), ctx);
    layers_[i].feed_forward(stream, ctx);
  }
  return {norm_(stream, ctx), at::stack(inputs, 1)};
}

Tensor real_of(const KeyMask& mask, int64_t B, int64_t T, at::Device device) {
  return mask.none() ? at::ones({B, T}, at::dtype(at::kBool).device(device)) : mask.tokens(T);
}

Tensor right_aligned(const Tensor& filled, int64_t places) {
  return at::arange(places, filled.options()).unsqueeze(0).ge(places - filled.unsqueeze(1));
}

Tensor moved_right(const Tensor& x, const Tensor& there) {
  const auto order = there.to(at::kByte).argsort(/*stable=*/true, 1);
  return x.gather(2, order.view({order.size(0), 1, -1, 1}).expand_as(x));
}

}  // namespace memformer::nn
