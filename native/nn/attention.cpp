#include "nn/attention.h"

#include "nn/fold_layer_norm.h"
#include "ops/attention/attention.h"
#include "ops/decode_attention/decode_attention.h"
#include "ops/decode_attention_layer/decode_attention_layer.h"
#include "ops/head_norm/head_norm.h"
#include "ops/kv_projection/kv_projection.h"

namespace memformer::nn {
namespace {

/// k_0, v_0, k_1, v_1, … layer by layer.
std::vector<CrossAttention::KeysValues> pairs(const std::vector<at::Tensor>& parts, bool normed) {
  std::vector<CrossAttention::KeysValues> seen;
  for (size_t i = 0; i < parts.size(); i += 2) seen.push_back({parts[i], parts[i + 1], normed});
  return seen;
}

std::string layer_prefix(const LayerPlace& place) {
  return place.stack + "." + std::to_string(place.layer) + ".self_attention";
}

}  // namespace

SelfAttention::SelfAttention(Parameters& parameters, const Config& config, const LayerPlace& place,
                             double residual_gain)
    : name_(layer_prefix(place)),
      causal_(place.causal),
      norm_(parameters, layer_prefix(place) + ".norm", config.integer("width")),
      qkv_(parameters, layer_prefix(place), config.integer("width"), config.integer("heads"),
           config.flag("queryKeyNorm")),
      out_(parameters, layer_prefix(place) + ".out", config.integer("width"), config.integer("width"), residual_gain),
      attention_(position_schemes().make(config.text("position"), parameters, config, place)) {}

void SelfAttention::operator()(Residual& stream, const KeyMask& mask, ForwardContext& ctx) const {
  const auto normed = norm_(stream, ctx);
  if (auto* seen = ctx.observation(); seen != nullptr && seen->wants(name_ + ".logits"))
    seen->add(name_ + ".logits", qkv_.largest_logits(normed, ctx));
  stream.branch = out_.without_bias((*attention_)(normed, qkv_, mask, causal_, ctx), ctx);
}

void SelfAttention::decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& cache,
                           ForwardContext& ctx) const {
  const auto rotation = rows.of_different_slots ? attention_->rotation(cache) : std::nullopt;
  if (!rotation) {
    const auto qkv = qkv_.after(norm_, stream, ctx);  // (R, 1, 3 D)
    stream.branch = out_.without_bias(attention_->decode(qkv, rows, cache, ctx), ctx);
    return;
  }
  const auto& [cos, sin] = *rotation;
  const auto [norm_weight, norm_bias] = norm_.parameters();
  const auto [qkv, qkv_bias] = qkv_.parameters();
  const auto [branch, branch_bias] = stream.decoded_branch();
  const auto [sum, product] = ops::decode_self_attention_layer(
      stream.x, branch, branch_bias, norm_weight, norm_bias, ctx.working(qkv), ctx.working(qkv_bias), cos, sin,
      rows.slots, rows.positions, cache.keys, cache.values, ctx.working(out_.parameters().first), qkv_.normed(),
      /*settled=*/true);
  stream = {sum, out_.of_rows(product, ctx)};
}

CrossAttention::CrossAttention(Parameters& parameters, const Config& config, const std::string& prefix, Context context,
                               double residual_gain)
    : name_(prefix),
      reads_memory_(context == Context::memory),
      heads_(config.integer("heads")),
      normed_(config.flag("queryKeyNorm")),
      norm_(parameters, prefix + ".norm", config.integer("width")),
      memory_norm_(
          context == Context::memory && config.flag("memoryNorm")
              ? std::optional<LayerNorm>(LayerNorm(parameters, prefix + ".memory_norm", config.integer("width")))
              : std::nullopt),
      query_(parameters, prefix + ".query", config.integer("width"), config.integer("width")),
      key_value_(parameters, prefix + ".key_value", config.integer("width"), 2 * config.integer("width"), 1.0,
                 /*matrices=*/2),
      out_(parameters, prefix + ".out", config.integer("width"), config.integer("width"), residual_gain),
      gate_(context == Context::memory && config.flag("readGate")
                ? std::optional<at::Tensor>(parameters.constant(prefix + ".gate", {config.integer("width")}, 0.0))
                : std::nullopt) {}

std::vector<CrossAttention::KeysValues> CrossAttention::project_keys_values(
    const std::vector<const CrossAttention*>& layers, const at::Tensor& context_in, int64_t queries,
    ForwardContext& ctx) {
  const auto context = ctx.cast(context_in);
  const bool norms = layers[0]->normed_ && !layers[0]->norms_late(context, queries);
  std::vector<at::Tensor> weights, biases, weight_sinks, bias_sinks;
  for (const auto* layer : layers) {
    const auto& [weight, bias] = layer->key_value_.parameters();
    weights.push_back(ctx.working(weight));
    biases.push_back(ctx.working(bias));
    if (const auto sink = ctx.sink(weight)) weight_sinks.push_back(*sink);
    if (const auto sink = ctx.sink(bias)) bias_sinks.push_back(*sink);
  }
  return pairs(ops::kv_projection(context, weights, biases, weight_sinks, bias_sinks, layers[0]->heads_, norms), norms);
}

std::vector<CrossAttention::KeysValues> CrossAttention::project_memory_keys_values(
    const std::vector<const CrossAttention*>& layers, const MemoryView& view, int64_t queries, ForwardContext& ctx) {
  if (!view.normed) return project_keys_values(layers, view.for_reads, queries, ctx);
  const bool norms = layers[0]->normed_ && !layers[0]->norms_late(view.for_reads, queries);
  std::vector<NormedLinear> normed;
  for (const auto* layer : layers) {
    const auto& [weight, bias] = layer->key_value_.parameters();
    normed.push_back({&*layer->memory_norm_, weight, bias});
  }
  const auto& [weights, biases, weight_sinks, bias_sinks] = fold_layer_norm(normed, ctx);
  return pairs(ops::kv_projection(view.for_reads, weights, biases, weight_sinks, bias_sinks, layers[0]->heads_, norms),
               norms);
}

void CrossAttention::operator()(Residual& stream, const KeysValues& seen, const KeyMask& mask,
                                ForwardContext& ctx) const {
  const auto normed = norm_(stream, ctx);
  const int64_t B = normed.size(0), T = normed.size(1), H = heads_, E = normed.size(2) / H;
  // Attention norms the queries itself where that costs nothing, and the keys where they are not.
  const bool norms_keys = normed_ && !seen.keys_normed;
  const bool attention_norms = normed_ && ops::attention_is_fused(normed, T, seen.keys.size(2), E);
  const auto heads = [&](const at::Tensor& x) { return x.view({B, T, H, E}).transpose(1, 2); };  // (B, H, T, E)
  const auto projected = query_(normed, ctx);
  const auto q = heads(attention_norms ? projected : normed_heads(projected));
  if (auto* observation = ctx.observation()) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(E));
    const auto asked = attention_norms ? heads(normed_heads(projected)) : q,
               keys = norms_keys ? ops::head_norm(seen.keys, {E, 1, 1}) : seen.keys;
    if (observation->wants(name_ + ".logits")) observation->add(name_ + ".logits", largest_logits(asked, keys, scale));
    if (reads_memory_) observation->add_read(asked, keys, scale);
  }
  const auto for_all = [&](const at::Tensor& part) { return part.size(0) == B ? part : part.expand({B, -1, -1, -1}); };
  stream.branch = branch(attend(q, for_all(seen.keys), for_all(seen.values), mask, attention_norms, norms_keys), ctx);
}

void CrossAttention::decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& cache,
                            ForwardContext& ctx) const {
  if (gate_) {
    const auto q = normed_heads(norm_.then(query_, stream, ctx)).squeeze(1);  // (R, D)
    const auto read = ops::decode_attention(q, cache.keys, cache.values, rows.slots, rows.context_lengths, {},
                                            /*settled=*/true);
    stream.branch = branch(read.unsqueeze(1), ctx);
    return;
  }
  const auto [norm_weight, norm_bias] = norm_.parameters();
  const auto [query, query_bias] = query_.parameters();
  const auto [branch, branch_bias] = stream.decoded_branch();
  const auto [sum, product] = ops::decode_attention_layer(
      stream.x, branch, branch_bias, norm_weight, norm_bias, ctx.working(query), ctx.working(query_bias), cache.keys,
      cache.values, rows.slots, rows.context_lengths, ctx.working(out_.parameters().first), normed_, /*settled=*/true);
  stream = {sum, out_.of_rows(product, ctx)};
}

bool CrossAttention::norms_late(const at::Tensor& context, int64_t queries) const {
  return queries > 0 && ops::attention_is_fused(context, queries, context.size(1), context.size(2) / heads_);
}

at::Tensor CrossAttention::normed_heads(const at::Tensor& query) const {
  return normed_ ? ops::head_norm(query, {query.size(2) / heads_, heads_, heads_}) : query;
}

Projection CrossAttention::branch(const at::Tensor& read, ForwardContext& ctx) const {
  if (!gate_) return out_.without_bias(read, ctx);
  return {out_(read, ctx) * ctx.cast(*gate_)};
}

}  // namespace memformer::nn
