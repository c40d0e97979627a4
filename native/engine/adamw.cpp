#include "engine/adamw.h"

#include "core/failure.h"
#include "engine/gradients.h"
#include "ops/adamw/adamw.h"

namespace memformer::engine {
namespace {

// Of the loss scale: doubled after so many steps that were made, halved after one that was not.
constexpr double kGrowth = 2.0;
constexpr int64_t kGrowthSteps = 2000;
constexpr double kMomentum = 0.95;  // Muon's

Shares shares_of(const nn::Parameters& parameters, const AdamW::Options& options) {
  const auto* group = options.group.get();
  return {parameters, group == nullptr ? 0 : group->membership().rank, group == nullptr ? 1 : group->membership().world,
          options.muon};
}

}  // namespace

AdamW::AdamW(const nn::Parameters& parameters, Options options)
    : options_(std::move(options)), parameters_(parameters), shares_(shares_of(parameters, options_)) {
  at::NoGradGuard no_grad;
  make_state();
  if (!options_.muon) return;
  std::vector<Muon::Part> parts;
  const auto line = shares_.own();
  for (size_t i = 0; i < parameters.all().size(); ++i) {
    const auto& parameter = parameters.all()[i];
    const auto piece = shares_.of(i);
    if (!Muon::moves(parameter) || piece.size() == 0) continue;
    const auto rows = parameter.value.size(0) / parameter.matrices, columns = parameter.value.size(1),
               at = shares_.offset(i) + piece.begin;
    parts.push_back({rows, columns, piece.size() / (rows * columns), at, at - line.begin});
  }
  muon_.emplace(parameters, exp_avg_, parts, Muon::Options{kMomentum, options_.weight_decay});
}

at::Tensor AdamW::own(const at::Tensor& tensor, Piece piece) const {
  if (!shares_.divided()) return tensor;
  return tensor.reshape({-1}).narrow(0, piece.begin, piece.size());
}

void AdamW::make_state() {
  const auto& flat = parameters_.flat();
  parameters_.gradients();
  const auto line = shares_.own();
  const auto options = flat.values.options();
  exp_avg_ = at::zeros({line.size()}, options);
  exp_avg_sq_ = at::zeros({line.size()}, options);
  steps_made_ = at::zeros({}, options.dtype(at::kFloat));
  rate_ = at::zeros_like(steps_made_);
  for (size_t i = 0; i < parameters_.all().size(); ++i) {
    const auto& [name, value, decay, matrices] = parameters_.all()[i];
    const auto place = shares_.of(i);
    const auto piece = [&, sizes = value.sizes()](const at::Tensor& moments) {
      const auto begin = place.size() == 0 ? 0 : shares_.offset(i) + place.begin - line.begin;
      const auto numbers = moments.narrow(0, begin, place.size());
      return shares_.divided() ? numbers : numbers.view(sizes);
    };
    state_[name + ".exp_avg"] = {piece(exp_avg_), i};
    state_[name + ".exp_avg_sq"] = {piece(exp_avg_sq_), i};
    state_[name + ".step"] = {steps_made_, {}};
  }
  if (!loss_scale(parameters_)) return;
  state_["loss_scale"] = {flat.loss_scale, {}};
  state_["good_steps"] = {flat.good_steps, {}};
}

const AdamW::Slot& AdamW::slot(const std::string& name) const {
  const auto found = state_.find(name);
  require(found != state_.end(), "CONFIG", "the optimizer has no state '", name, "'");
  return found->second;
}

at::Tensor AdamW::state(const std::string& name) const {
  at::NoGradGuard no_grad;
  const auto& [values, parameter] = slot(name);
  if (!parameter || !shares_.divided()) return values;
  const auto& shape = parameters_.all()[*parameter].value;
  const auto place = shares_.of(*parameter);
  auto whole = at::empty({shape.numel()}, values.options());
  whole.narrow(0, place.begin, place.size()).copy_(values);
  options_.group->all_gather(whole, shares_.ends_of(*parameter), "gathering the optimizer's state");
  return whole.view(shape.sizes());
}

void AdamW::assign(const std::string& name, const at::Tensor& value) {
  at::NoGradGuard no_grad;
  auto [values, parameter] = slot(name);
  const auto sizes = parameter ? parameters_.all()[*parameter].value.sizes() : values.sizes();
  require(sizes == value.sizes(), "SHAPE", "'", name, "' has shape ", sizes, ", got ", value.sizes());
  if (values.is_same(steps_made_)) return assign_steps(name, value);
  values.copy_(parameter ? own(value, shares_.of(*parameter)) : value);
}

void AdamW::assign_steps(const std::string& name, const at::Tensor& value) {
  if (assigned_steps_.count(name) != 0) assigned_steps_.clear();  // another state from here on
  const auto steps = value.to(steps_made_.options());
  if (assigned_steps_.empty())
    steps_made_.copy_(steps);
  else
    steps_made_.clamp_min_(steps);
  assigned_steps_.insert(name);
}

void AdamW::step(double rate, const at::Tensor& norm, double clip) {
  at::NoGradGuard no_grad;
  assigned_steps_.clear();
  if (muon_)
    muon_->step(rate, norm, clip, loss_scale(parameters_));  // AdamW leaves alone what has no gradient any more
  update(rate, norm, clip);
  if (parameters_.flat().loss_scale.defined()) update_loss_scale(norm);
  if (shares_.divided()) {
    zero_gradients(parameters_);  // those of the others' shares too
    gather_parameters();
  }
  parameters_.changed();
}

void AdamW::update(double rate, const at::Tensor& norm, double clip) {
  const auto& flat = parameters_.flat();
  const auto line = shares_.own();
  const auto part = [&](const at::Tensor& buffer) { return buffer.narrow(0, line.begin, line.size()); };
  rate_.fill_(rate);
  ops::adamw_step(part(flat.values), part(parameters_.gradients()), exp_avg_, exp_avg_sq_,
                  flat.working.defined() ? std::optional<at::Tensor>(part(flat.working)) : std::nullopt, steps_made_,
                  norm, rate_, std::clamp<int64_t>(flat.decayed - line.begin, 0, line.size()), options_.beta1,
                  options_.beta2, options_.eps, options_.weight_decay, clip, loss_scale(parameters_));
}

void AdamW::update_loss_scale(const at::Tensor& norm) {
  const auto found_inf = norm.isfinite().logical_not().to(at::kFloat);
  auto loss_scale = parameters_.flat().loss_scale, good_steps = parameters_.flat().good_steps;
  at::_amp_update_scale_(loss_scale, good_steps, found_inf, kGrowth, 1.0 / kGrowth, kGrowthSteps);
}

void AdamW::gather_parameters() {
  auto [values, working] = std::pair(parameters_.flat().values, parameters_.flat().working);
  options_.group->all_gather(values, shares_.ends(), "gathering the updated parameters");
  if (working.defined()) working.copy_(values);
}

}  // namespace memformer::engine
