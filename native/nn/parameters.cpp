#include "nn/parameters.h"

#include "core/failure.h"

namespace memformer::nn {

Parameters::Parameters(uint64_t seed, at::ScalarType dtype) : generator_(at::detail::createCPUGenerator(seed)), dtype_(dtype) {}

at::Tensor Parameters::normal(const std::string& name, at::IntArrayRef shape, double deviation, Decay decay) {
  // Drawn in float64 whatever the dtype, so that float32 and float64 models of one seed are the same model.
  return add(name, at::empty(shape, at::kDouble).normal_(0.0, deviation, generator_).to(dtype_), decay);
}

at::Tensor Parameters::constant(const std::string& name, at::IntArrayRef shape, double value) {
  return add(name, at::full(shape, value, dtype_), Decay::no);
}

at::Tensor Parameters::add(const std::string& name, at::Tensor value, Decay decay) {
  require(index_.emplace(name, all_.size()).second, "NATIVE", "parameter '", name, "' is made twice");
  value.requires_grad_(true);
  count_ += value.numel();
  all_.push_back({name, value, decay == Decay::yes});
  return value;
}

at::Tensor Parameters::at(const std::string& name) const {
  const auto found = index_.find(name);
  require(found != index_.end(), "CONFIG", "the model has no parameter '", name, "'");
  return all_[found->second].value;
}

}  // namespace memformer::nn
