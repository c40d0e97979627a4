#include "nn/writers/slot_projection.h"

#include "nn/folded.h"
#include "ops/linear/linear.h"
#include "ops/slot_attention/slot_attention.h"

namespace memformer::nn {
namespace {

// At the start the slots hold on to most of what they are: W_Q = W_K, so that a slot's logit for itself is sqrt(E) g^2 / tau for
// deviation g / sqrt(D); g^2 = tau (log(T) + kHold) / sqrt(E) puts it kHold above the logarithm of the number of tokens.
constexpr double kHold = 2.0;

double start_deviation(const Config& config, double E) {
  const double D = config.number("width");
  return std::sqrt(config.number("writerTemperature") * (std::log(config.number("segment")) + kHold) / std::sqrt(E) / D);
}

/// 0 in the configuration: as many as everywhere else.
int64_t heads(const Config& config) {
  const int64_t own = config.integer("writerHeads");
  return own == 0 ? config.integer("heads") : own;
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
  value_.weight = parameters.normal("writer.value.weight", {D, D}, value_gain / std::sqrt(static_cast<double>(D)), Parameters::Decay::yes);
  if (!config.flag("writerBias")) return;
  query_.bias = parameters.constant("writer.query.bias", {D}, 0.0);
  key_.bias = parameters.constant("writer.key.bias", {D}, 0.0);
  value_.bias = parameters.constant("writer.value.bias", {D}, 0.0);
}

at::Tensor SlotProjection::project(const at::Tensor& x, const Projected& by, Pass& pass) const {
  if (!by.bias) return ops::linear(pass.cast(x), pass.working(by.weight), {}, pass.sink(by.weight), {});
  return ops::linear(pass.cast(x), pass.working(by.weight), pass.working(*by.bias), pass.sink(by.weight), pass.sink(*by.bias));
}

at::Tensor SlotProjection::of_slots(const Slots& slots, const at::Tensor& use, size_t number, Pass& pass) const {
  const Projected* const all[] = {&query_, &key_, &value_};
  if (!slots.normed) return project(use, *all[number], pass);
  std::vector<NormedLinear> normed;
  for (size_t i = 0; i < (own_values_ ? 3 : 2); ++i) normed.push_back({&*norm_, all[i]->weight, all[i]->bias});
  const auto& [weights, biases, weight_sinks, bias_sinks] = folded(normed, pass);
  if (weight_sinks.empty()) return ops::linear(use, weights[number], biases[number], {}, {});
  return ops::linear(use, weights[number], biases[number], weight_sinks[number], bias_sinks[number]);
}

at::Tensor SlotProjection::attend(const Slots& slots, const at::Tensor& own, const at::Tensor& x, const KeyMask& mask, Pass& pass) const {
  return ops::slot_attention(of_slots(slots, slots.for_query, 0, pass), of_slots(slots, slots.for_key, 1, pass), own, project(x, key_, pass),
                             project(x, value_, pass), mask.real(), heads_, scale_, mask.lengths());
}

}  // namespace memformer::nn
