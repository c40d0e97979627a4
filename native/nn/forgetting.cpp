#include "nn/forgetting.h"

#include "ops/biased_norm/biased_norm.h"

namespace memformer::nn {

Forgetting::Forgetting(Parameters& parameters, const Config& config) {
  const auto& name = config.text("forgetting");
  require(name == "bmn" || name == "normalize-only" || name == "none", "CONFIG", "there is no forgetting '", name,
          "'; known: bmn, normalize-only, none");
  kind_ = name == "bmn" ? Kind::bmn : name == "none" ? Kind::none : Kind::normalize_only;
  const int64_t M = config.integer("memorySlots"), D = config.integer("width");
  slots_ = parameters.normal(kind_ == Kind::bmn ? "writer.v_bias" : "writer.initial", {M, D}, 1.0 / std::sqrt(static_cast<double>(D)),
                             Parameters::Decay::no);
}

at::Tensor Forgetting::initial() const {
  if (kind_ == Kind::none) return slots_;
  return ops::biased_norm(slots_.unsqueeze(0), at::zeros_like(slots_), kEps).squeeze(0);
}

at::Tensor Forgetting::operator()(const at::Tensor& memory, const at::Tensor& reset, const std::optional<at::Tensor>& lengths) const {
  const auto given = reset.defined() ? std::optional<at::Tensor>(reset) : std::nullopt;
  switch (kind_) {
    case Kind::bmn: return ops::biased_norm(memory, slots_, kEps, given, lengths);
    case Kind::normalize_only: return restart(ops::biased_norm(memory, at::zeros_like(slots_), kEps, std::nullopt, lengths), reset);
    default: return restart(memory, reset);
  }
}

at::Tensor Forgetting::restart(const at::Tensor& memory, const at::Tensor& reset) const {
  return reset.defined() ? at::where(reset.view({-1, 1, 1}), initial().unsqueeze(0), memory) : memory;
}

}  // namespace memformer::nn
