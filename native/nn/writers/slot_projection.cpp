#include "nn/writers/slot_projection.h"

#include "ops/linear/linear.h"
#include "ops/slot_attention/slot_attention.h"

namespace memformer::nn {
namespace {

// At the start the slots hold on to most of what they are: W_Q = W_K, so that a slot's logit for itself is sqrt(E) g^2 / tau for
// deviation g / sqrt(D); g^2 = tau (log(T) + kHold) / sqrt(E) puts it kHold above the logarithm of the number of tokens.
constexpr double kHold = 2.0;

double start_deviation(const Config& config) {
  const double D = config.number("width"), E = D / config.number("heads");
  return std::sqrt(config.number("writerTemperature") * (std::log(config.number("segment")) + kHold) / std::sqrt(E) / D);
}

}  // namespace

SlotProjection::SlotProjection(Parameters& parameters, const Config& config, double value_gain)
    : heads_(config.integer("heads")),
      scale_(1.0 / (std::sqrt(config.number("width") / config.number("heads")) * config.number("writerTemperature"))),
      norm_(parameters, "writer.norm", config.integer("width")) {
  const int64_t D = config.integer("width");
  key_ = parameters.normal("writer.key.weight", {D, D}, start_deviation(config), Parameters::Decay::yes);
  query_ = parameters.add("writer.query.weight", key_.detach().clone(), Parameters::Decay::yes);
  value_ = parameters.normal("writer.value.weight", {D, D}, value_gain / std::sqrt(static_cast<double>(D)), Parameters::Decay::yes);
}

at::Tensor SlotProjection::project(const at::Tensor& x, const at::Tensor& weight, Pass& pass) const {
  return ops::linear(pass.cast(x), pass.working(weight), {}, pass.sink(weight), {});
}

at::Tensor SlotProjection::value(const at::Tensor& x, Pass& pass) const { return project(x, value_, pass); }

at::Tensor SlotProjection::attend(const at::Tensor& u, const at::Tensor& own, const at::Tensor& x, const KeyMask& mask, Pass& pass) const {
  return ops::slot_attention(project(u, query_, pass), project(u, key_, pass), own, project(x, key_, pass), value(x, pass),
                             mask.none() ? std::nullopt : std::optional<at::Tensor>(mask.real()), heads_, scale_);
}

}  // namespace memformer::nn
