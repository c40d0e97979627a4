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
  if (parameters.flat())
    make_flat_state();
  else
    make_state();
  if (!options_.muon) return;
  std::vector<Muon::Part> parts;
  for (size_t i = 0; i < parameters.all().size(); ++i) {
    const auto& parameter = parameters.all()[i];
    if (Muon::moves(parameter))
      parts.push_back({parameter, shares_.of(i), state_.at(parameter.name + ".exp_avg").values});
  }
  muon_.emplace(parts, Muon::Options{kMomentum, options_.weight_decay, parameters.flat().has_value()});
}

at::Tensor AdamW::own(const at::Tensor& tensor, Piece piece) const {
  if (!shares_.divided()) return tensor;
  return tensor.reshape({-1}).narrow(0, piece.begin, piece.size());
}

void AdamW::make_flat_state() {
  const auto& flat = *parameters_.flat();
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

void AdamW::make_state() {
  groups_.resize(2);
  groups_[0].decay = options_.weight_decay;
  groups_[1].decay = 0.0;
  for (size_t i = 0; i < parameters_.all().size(); ++i) {
    const auto& parameter = parameters_.all()[i];
    auto& group = groups_[parameter.decay ? 0 : 1];
    const auto place = shares_.of(i);
    const auto piece = own(parameter.value.detach(), place);
    group.parameters.push_back(parameter.value);
    group.places.push_back(place);
    group.pieces.push_back(piece);
    group.exp_avgs.push_back(at::zeros_like(piece));
    group.exp_avg_sqs.push_back(at::zeros_like(piece));
    group.steps.push_back(at::zeros({}, piece.options().dtype(at::kFloat)));
    state_[parameter.name + ".exp_avg"] = {group.exp_avgs.back(), i};
    state_[parameter.name + ".exp_avg_sq"] = {group.exp_avg_sqs.back(), i};
    state_[parameter.name + ".step"] = {group.steps.back(), {}};
  }
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
  values.copy_(parameter ? own(value, shares_.of(*parameter)) : value);
}

void AdamW::step(double rate, const at::Tensor& norm, double clip) {
  at::NoGradGuard no_grad;
  if (muon_)
    muon_->step(rate, norm, clip, loss_scale(parameters_));  // AdamW leaves alone what has no gradient any more
  if (parameters_.flat()) {
    step_flat(rate, norm, clip);
  } else {
    const auto found_inf = norm.isfinite().logical_not().to(at::kFloat);
    std::optional<at::Tensor> divisor;
    if (clip > 0) divisor = ((norm + 1e-6) / clip).clamp_min(1.0).to(at::kFloat);
    for (auto& group : groups_) step(group, rate, found_inf, divisor);
    zero_gradients(parameters_);
  }
  if (shares_.divided()) gather_parameters();
}

void AdamW::step_flat(double rate, const at::Tensor& norm, double clip) {
  const auto& flat = *parameters_.flat();
  const auto line = shares_.own();
  const auto part = [&](const at::Tensor& buffer) { return buffer.narrow(0, line.begin, line.size()); };
  rate_.fill_(rate);
  ops::adamw_step(part(flat.values), part(flat.gradients), exp_avg_, exp_avg_sq_,
                  flat.working.defined() ? std::optional<at::Tensor>(part(flat.working)) : std::nullopt, steps_made_,
                  norm, rate_, std::clamp<int64_t>(flat.decayed - line.begin, 0, line.size()), options_.beta1,
                  options_.beta2, options_.eps, options_.weight_decay, clip, loss_scale(parameters_));
  if (shares_.divided()) zero_gradients(parameters_);  // those of the others' shares too
  if (!flat.loss_scale.defined()) return;
  const auto found_inf = norm.isfinite().logical_not().to(at::kFloat);
  auto loss_scale = flat.loss_scale, good_steps = flat.good_steps;
  at::_amp_update_scale_(loss_scale, good_steps, found_inf, kGrowth, 1.0 / kGrowth, kGrowthSteps);
}

void AdamW::step(Group& group, double rate, const at::Tensor& found_inf, const std::optional<at::Tensor>& divisor) {
  // A parameter that no gradient reached (the memory of a model trained without it, say) stays as it is.
  Tensors pieces, grads, exp_avgs, exp_avg_sqs, steps, counted;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const auto& grad = group.parameters[i].grad();
    if (!grad.defined()) continue;
    counted.push_back(group.steps[i]);  // on every rank, so that each knows all steps
    if (group.pieces[i].numel() == 0) continue;
    pieces.push_back(group.pieces[i]);
    grads.push_back(own(grad, group.places[i]));
    exp_avgs.push_back(group.exp_avgs[i]);
    exp_avg_sqs.push_back(group.exp_avg_sqs[i]);
    steps.push_back(group.steps[i]);
  }
  if (counted.empty()) return;
  at::_foreach_add_(counted, 1);
  if (!pieces.empty())
    at::_fused_adamw_(pieces, grads, exp_avgs, exp_avg_sqs, {}, steps, rate, options_.beta1, options_.beta2,
                      group.decay, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false, divisor, found_inf);
  at::_foreach_sub_(counted, Tensors(counted.size(), found_inf));
}

void AdamW::gather_parameters() {
  constexpr const char* kName = "gathering the updated parameters";
  if (parameters_.flat()) {
    auto [values, working] = std::pair(parameters_.flat()->values, parameters_.flat()->working);
    options_.group->all_gather(values, shares_.ends(), kName);
    if (working.defined()) working.copy_(values);
    return;
  }
  const auto& all = parameters_.all();
  auto line = at::empty({shares_.size()}, at::dtype(parameters_.dtype()));
  const auto place_of = [&](size_t i) { return line.narrow(0, shares_.offset(i), all[i].value.numel()); };
  for (size_t i = 0; i < all.size(); ++i) {
    const auto piece = shares_.of(i);
    own(place_of(i), piece).copy_(own(all[i].value.detach(), piece));
  }
  options_.group->all_gather(line, shares_.ends(), kName);
  for (size_t i = 0; i < all.size(); ++i) all[i].value.detach().copy_(place_of(i).view(all[i].value.sizes()));
}

}  // namespace memformer::engine
