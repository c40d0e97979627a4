#include "nn/memory/writers/slot_projection.h"

#include "nn/fold_layer_norm.h"
#include "ops/head_norm/head_norm.h"
#include "ops/linear/linear.h"
#include "ops/slot_attention/slot_attention.h"

namespace memformer::nn {
namespace {

// At the start the slots hold on to most of what they are: W_Q = W_K, so that a slot's logit for itself is sqrt(E) g^2
// / tau for deviation g / sqrt(D); g^2 = tau (log(T) + kHold) / sqrt(E) puts it kHold above the logarithm of the number
// of tokens.
constexpr double kHold = 2.0;

double own_logit(const Config& config) { return std::log(config.number("segmentLength")) + kHold; }

/// With writerSharpness g^2 / tau, the deviation of the tokens' logits, is that, and a gain on the slots' own keys puts
/// their logits where they would be.
double start_square(const Config& config, double E) {
  const double sharpness = config.number("writerSharpness");
  return config.number("writerTemperature") * (sharpness > 0 ? sharpness : own_logit(config) / std::sqrt(E));
}

double start_deviation(const Config& config, double E) {
  return std::sqrt(start_square(config, E) / config.number("width"));
}

/// 0 in the configuration: as many as everywhere else.
int64_t heads(const Config& config) {
  const int64_t own = config.integer("writerHeads");
  return own == 0 ? config.integer("heads") : own;
}

/// x (B, N, D) times a gain (H) a head, in x's dtype.
at::Tensor times(const at::Tensor& x, const at::Tensor& gain) {
  const auto H = gain.size(0);
  return (x.view({x.size(0), x.size(1), H, -1}) * gain.view({H, 1})).to(x.scalar_type()).view(x.sizes());
}

}  // namespace

SlotProjection::SlotProjection(Parameters& parameters, const Config& config, double value_gain, bool own_values)
    : heads_(heads(config)), own_values_(own_values) {
  const int64_t D = config.integer("width");
  const double E = static_cast<double>(D) / static_cast<double>(heads_);
  scale_ = 1.0 / (std::sqrt(E) * config.number("writerTemperature"));
  if (config.flag("memoryNorm")) norm_.emplace(parameters, "writer.norm", D);
  key_.weight = parameters.normal("writer.key.weight", {D, D}, start_deviation(config, E), Parameters::Decay::yes);
  query_.weight = parameters.add("writer.query.weight", key_.weight.detach().clone(), Parameters::Decay::yes);
  value_.weight = parameters.normal("writer.value.weight", {D, D}, value_gain / std::sqrt(static_cast<double>(D)),
                                    Parameters::Decay::yes);
  const auto& values = config.text("writerValues");
  require(values == "plain" || values == "centered" || values == "normed", "CONFIG", "there are no writer values '",
          values, "'; known: plain, centered, normed");
  values_ = values == "plain" ? Values::plain : values == "centered" ? Values::centered : Values::normed;
  value_norm_ = config.number("writerValueGain");
  // A slot's logit for itself starts where it does without the norms: q = g^2 k there.
  if (config.flag("writerQueryKeyNorm"))
    gain_ = parameters.constant("writer.query.gain", {heads_}, start_square(config, E));
  if (const double sharpness = config.number("writerSharpness"); sharpness > 0)
    self_gain_ = parameters.constant("writer.self_gain", {heads_}, own_logit(config) / (sharpness * std::sqrt(E)));
  if (!config.flag("writerBias")) return;
  query_.bias = parameters.constant("writer.query.bias", {D}, 0.0);
  key_.bias = parameters.constant("writer.key.bias", {D}, 0.0);
  value_.bias = parameters.constant("writer.value.bias", {D}, 0.0);
}

at::Tensor SlotProjection::project(const at::Tensor& x, const Projected& by, ForwardContext& ctx) const {
  return ops::linear(ctx.cast(x), ctx.trained(by.weight), ctx.trained(by.bias));
}

at::Tensor SlotProjection::of_slots(const MemoryView& view, const at::Tensor& use, size_t number,
                                    ForwardContext& ctx) const {
  const Projected* const all[] = {&query_, &key_, &value_};
  if (!view.normed) return project(use, *all[number], ctx);
  std::vector<NormedLinear> normed;
  for (size_t i = 0; i < (own_values_ ? 3 : 2); ++i) normed.push_back({&*norm_, all[i]->weight, all[i]->bias});
  const auto& folded = fold_layer_norm(normed, ctx);
  return ops::linear(use, folded.weight(number), folded.bias(number));
}

at::Tensor SlotProjection::of_heads(const at::Tensor& x, const std::optional<at::Tensor>& gains) const {
  return ops::head_norm(x, {x.size(2) / heads_, heads_, heads_}, gains);
}

at::Tensor SlotProjection::query(const MemoryView& view, ForwardContext& ctx) const {
  const auto q = of_slots(view, view.for_query, 0, ctx);
  return gain_ ? of_heads(q, gain_) : q;
}

at::Tensor SlotProjection::own_key(const MemoryView& view, ForwardContext& ctx) const {
  const auto k = of_slots(view, view.for_key, 1, ctx);
  if (gain_) return of_heads(k, self_gain_);
  return self_gain_ ? times(k, *self_gain_) : k;
}

at::Tensor SlotProjection::key(const at::Tensor& projected) const { return gain_ ? of_heads(projected) : projected; }

at::Tensor SlotProjection::values(const at::Tensor& x, const KeyMask& mask, ForwardContext& ctx) const {
  const auto v = project(x, value_, ctx);
  if (values_ == Values::plain) return v;
  if (values_ == Values::normed)
    return ops::head_norm(v, {v.size(2), 1, 1, value_norm_ / std::sqrt(static_cast<double>(v.size(2)))});
  const auto wide = v.to(accumulate_type(v.scalar_type()));
  if (mask.none()) return (wide - wide.mean(1, true)).to(v.scalar_type());
  const auto real = mask.tokens(x.size(1)).unsqueeze(2).to(wide.scalar_type());  // (B, T, 1)
  return (wide - (wide * real).sum(1, true) / real.sum(1, true).clamp_min(1)).to(v.scalar_type());
}

void SlotProjection::note(const at::Tensor& q, const at::Tensor& own_key, const at::Tensor& k, const at::Tensor& v,
                          const KeyMask& mask, Observation& seen) const {
  const auto split = [&](const at::Tensor& x) {
    return x.to(at::kFloat).view({x.size(0), x.size(1), heads_, -1}).transpose(1, 2);
  };
  const auto own = (split(q) * split(own_key)).sum(-1, true) * scale_;    // (B, H, M, 1)
  auto tokens = at::matmul(split(q), split(k).transpose(2, 3)) * scale_;  // (B, H, M, T)
  if (!mask.none())
    tokens = tokens.masked_fill(mask.tokens(k.size(1)).logical_not().view({q.size(0), 1, 1, -1}),
                                -std::numeric_limits<float>::infinity());
  seen.add("writer.self", at::softmax(at::cat({own, tokens}, 3), 3).select(3, 0));
  if (seen.wants("writer.logits")) seen.add("writer.logits", largest_logits(split(q), split(k), scale_));
  seen.add("writer.values", v);
}

at::Tensor SlotProjection::attend(const MemoryView& view, const at::Tensor& own, const at::Tensor& x,
                                  const KeyMask& mask, ForwardContext& ctx) const {
  const auto q = view.query.defined() ? view.query : query(view, ctx),
             self = view.own_key.defined() ? view.own_key : own_key(view, ctx), k = key(project(x, key_, ctx)),
             v = values(x, mask, ctx);
  if (auto* seen = ctx.observation()) note(q, self, k, v, mask, *seen);
  return ops::slot_attention(q, self, own, k, v, mask.real(), heads_, scale_, mask.lengths());
}

}  // namespace memformer::nn
