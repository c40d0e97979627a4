#include "nn/memory/forgetting.h"

#include "ops/biased_norm/biased_norm.h"

namespace memformer::nn {
namespace {

/// (M, 1): from `first` to `last`, evenly in the logarithm.
at::Tensor norms(int64_t M, double first, double last) {
  return at::logspace(std::log10(first), std::log10(last), M, 10.0, at::kDouble).unsqueeze(1);
}

}  // namespace

Forgetting::Forgetting(Parameters& parameters, const Config& config) {
  const auto& name = config.text("forgetting");
  require(name == "bmn" || name == "normalize-only" || name == "none", "CONFIG", "there is no forgetting '", name,
          "'; known: bmn, normalize-only, none");
  kind_ = name == "bmn" ? Kind::bmn : name == "none" ? Kind::none : Kind::normalize_only;
  const int64_t M = config.integer("memorySlots"), D = config.integer("width");
  slots_ = parameters.normal(kind_ == Kind::bmn ? "writer.v_bias" : "writer.initial", {M, D},
                             1.0 / std::sqrt(static_cast<double>(D)), Parameters::Decay::no);
  const double first = config.number("forgettingBias"), last = config.number("forgettingBiasLeast");
  const bool scaled = config.flag("forgettingScaled");
  if (kind_ != Kind::bmn || (first == 1.0 && last == 0.0)) return;
  const auto start = norms(M, first, last == 0.0 ? first : last).to(parameters.dtype());
  if (scaled)
    scale_ = start;
  else
    slots_.detach().mul_(start);
}

at::Tensor Forgetting::bias() const {
  if (!scale_.defined()) return slots_;
  if (scale_.device() != slots_.device()) scale_ = scale_.to(slots_.device());
  return slots_ * scale_;
}

at::Tensor Forgetting::initial() const {
  if (kind_ == Kind::none) return slots_;
  return ops::biased_norm(slots_.unsqueeze(0), at::zeros_like(slots_), kEps).squeeze(0);
}

at::Tensor Forgetting::operator()(const at::Tensor& memory, const at::Tensor& reset,
                                  const std::optional<at::Tensor>& lengths) const {
  const auto given = reset.defined() ? std::optional<at::Tensor>(reset) : std::nullopt;
  switch (kind_) {
    case Kind::bmn:
      return ops::biased_norm(memory, bias(), kEps, given, lengths);
    case Kind::normalize_only:
      return restart(ops::biased_norm(memory, at::zeros_like(slots_), kEps, std::nullopt, lengths), reset);
    default:
      return restart(memory, reset);
  }
}

at::Tensor Forgetting::restart(const at::Tensor& memory, const at::Tensor& reset) const {
  return reset.defined() ? at::where(reset.view({-1, 1, 1}), initial().unsqueeze(0), memory) : memory;
}

}  // namespace memformer::nn
