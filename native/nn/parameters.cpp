#include "nn/parameters.h"

#include <map>
#include <regex>

#include "core/failure.h"
#include "core/host_allocator.h"

namespace memformer::nn {
namespace {

/// "decoder.*.feed_forward.up.weight" of "decoder.3.feed_forward.up.weight".
std::string role(const std::string& name) {
  static const std::regex layer("\\.[0-9]+\\.");
  return std::regex_replace(name, layer, ".*.");
}

}  // namespace

Parameters::Parameters(uint64_t seed, at::ScalarType dtype)
    : generator_(at::detail::createCPUGenerator(seed)), dtype_(dtype) {}

at::Tensor Parameters::normal(const std::string& name, at::IntArrayRef shape, double deviation, Decay decay,
                              int64_t matrices) {
  // Drawn in float64 whatever the dtype, so that float32 and float64 models of one seed are the same model.
  return add(name, at::empty(shape, at::kDouble).normal_(0.0, deviation, generator_).to(dtype_), decay, matrices);
}

at::Tensor Parameters::constant(const std::string& name, at::IntArrayRef shape, double value) {
  return add(name, at::full(shape, value, dtype_), Decay::no);
}

at::Tensor Parameters::add(const std::string& name, at::Tensor value, Decay decay, int64_t matrices) {
  require(index_.emplace(name, all_.size()).second, "NATIVE", "parameter '", name, "' is made twice");
  value.requires_grad_(true);
  count_ += value.numel();
  all_.push_back({name, value, decay == Decay::yes, decay == Decay::yes ? matrices : 0});
  return value;
}

void Parameters::to(at::Device device, at::ScalarType compute) {
  constexpr double kFirstLossScale = 65536;
  at::NoGradGuard no_grad;
  std::map<std::pair<bool, std::string>, std::vector<const Parameter*>>
      roles;  // (no decay, name without the layer) -> layers
  for (const auto& parameter : all_) roles[{!parameter.decay, role(parameter.name)}].push_back(&parameter);
  int64_t size = 0, decayed = 0;
  for (const auto& [key, parameters] : roles) {
    for (const auto* parameter : parameters) {
      offsets_[parameter->value.unsafeGetTensorImpl()] = size;
      size += (parameter->value.numel() + kAlignment - 1) / kAlignment * kAlignment;
    }
    if (!key.first) decayed = size;
  }
  const auto options = at::TensorOptions().device(device).dtype(dtype_);
  const bool narrow = compute != dtype_, copied = narrow && !device.is_cpu();
  sinks_ = !narrow || copied;
  // Not at::zeros: pages of the host's memory that are not touched yet take no room beside the parameters' first
  // copies.
  flat_ = Flat{
      at::empty({size}, options), copied ? at::zeros({size}, options.dtype(compute)) : at::Tensor(), decayed, {}, {}};
  if (compute == at::kHalf) {
    flat_->loss_scale = at::full({}, kFirstLossScale, options.dtype(at::kFloat));
    flat_->good_steps = at::zeros({}, options.dtype(at::kInt));
  }
  for (auto& parameter : all_) {
    const auto value = piece(flat_->values, parameter.value);
    value.copy_(parameter.value);
    const int64_t end = offset(parameter.value) + value.numel();
    flat_->values.narrow(0, end, (kAlignment - end % kAlignment) % kAlignment).zero_();
    parameter.value.set_data(value);
    trim_host_cache();  // of the first copy
    if (!sinks_) continue;
    Storage storage{parameter.value, {}};
    if (copied) {
      storage.working = piece(flat_->working, parameter.value).copy_(value).detach();
      storage.working.requires_grad_(
          true);  // so that its operators have a backward pass; the gradient goes to the sink
    }
    storage_[parameter.value.unsafeGetTensorImpl()] = storage;
  }
  if (!device.is_cpu()) gradients();
}

const at::Tensor& Parameters::gradients() const {
  if (gradients_.defined()) return gradients_;
  at::NoGradGuard no_grad;
  gradients_ = at::zeros_like(flat_->values);
  for (const auto& parameter : all_) {
    parameter.value.mutable_grad() = piece(gradients_, parameter.value);
    if (sinks_) storage_.at(parameter.value.unsafeGetTensorImpl()).sink = parameter.value.grad();
  }
  return gradients_;
}

at::Tensor Parameters::piece(const at::Tensor& buffer, const at::Tensor& parameter) const {
  return buffer.narrow(0, offset(parameter), parameter.numel()).view(parameter.sizes());
}

const Parameters::Storage& Parameters::storage(const at::Tensor& parameter) const {
  static const Storage none;
  const auto found = storage_.find(parameter.unsafeGetTensorImpl());
  return found == storage_.end() ? none : found->second;
}

void Parameters::assign(const std::string& name, const at::Tensor& value) {
  at::NoGradGuard no_grad;
  auto parameter = at(name);
  require(parameter.sizes() == value.sizes(), "SHAPE", "'", name, "' has shape ", parameter.sizes(), ", got ",
          value.sizes());
  parameter.copy_(value);
  const auto& working = storage(parameter).working;
  if (working.defined() && !working.is_same(parameter)) working.detach().copy_(parameter);
  changed();
}

at::Tensor Parameters::at(const std::string& name) const {
  const auto found = index_.find(name);
  require(found != index_.end(), "CONFIG", "the model has no parameter '", name, "'");
  return all_[found->second].value;
}

}  // namespace memformer::nn
