#include "engine/adamw.h"

#include "engine/gradients.h"
#include "ops/adamw/adamw.h"

namespace memformer::engine {
namespace {

// Of the loss scale: doubled after so many steps that were made, halved after one that was not.
constexpr double kGrowth = 2.0;
constexpr int64_t kGrowthSteps = 2000;
constexpr double kMomentum = 0.95;  // Muon's

}  // namespace

AdamW::AdamW(const nn::Parameters& parameters, Options options) : options_(options), parameters_(parameters) {
  make_state();
  if (!options.muon) return;
  std::map<std::string, at::Tensor> momenta;
  for (const auto& parameter : parameters.all())
    if (Muon::moves(parameter)) momenta[parameter.name] = state_.at(parameter.name + ".exp_avg");
  muon_.emplace(parameters, Muon::Options{kMomentum, options.weight_decay}, momenta);
}

void AdamW::make_state() {
  at::NoGradGuard no_grad;
  const auto& parameters = parameters_;
  const auto& options = options_;
  if (parameters.flat()) {
    const auto& values = parameters.flat()->values;
    exp_avg_ = at::zeros_like(values);
    exp_avg_sq_ = at::zeros_like(values);
    steps_made_ = at::zeros({}, values.options().dtype(at::kFloat));
    rate_ = at::zeros_like(steps_made_);
    for (const auto& parameter : parameters.all()) {
      state_[parameter.name + ".exp_avg"] = parameters.piece(exp_avg_, parameter.value);
      state_[parameter.name + ".exp_avg_sq"] = parameters.piece(exp_avg_sq_, parameter.value);
      state_[parameter.name + ".step"] = steps_made_;
    }
    if (loss_scale(parameters)) {
      state_["loss_scale"] = parameters.flat()->loss_scale;
      state_["good_steps"] = parameters.flat()->good_steps;
    }
    return;
  }
  groups_.resize(2);
  groups_[0].decay = options.weight_decay;
  groups_[1].decay = 0.0;
  for (const auto& parameter : parameters.all()) {
    auto& group = groups_[parameter.decay ? 0 : 1];
    group.parameters.push_back(parameter.value);
    group.exp_avgs.push_back(at::zeros_like(parameter.value));
    group.exp_avg_sqs.push_back(at::zeros_like(parameter.value));
    group.steps.push_back(at::zeros({}, parameter.value.options().dtype(at::kFloat)));
    state_[parameter.name + ".exp_avg"] = group.exp_avgs.back();
    state_[parameter.name + ".exp_avg_sq"] = group.exp_avg_sqs.back();
    state_[parameter.name + ".step"] = group.steps.back();
  }
}

std::map<std::string, at::Tensor> AdamW::state() const { return state_; }

void AdamW::step(double rate, const at::Tensor& norm, double clip) {
  at::NoGradGuard no_grad;
  if (muon_)
    muon_->step(rate, norm, clip, loss_scale(parameters_));  // AdamW leaves alone what has no gradient any more
  if (parameters_.flat()) return step_flat(rate, norm, clip);
  const auto found_inf = norm.isfinite().logical_not().to(at::kFloat);
  std::optional<at::Tensor> divisor;
  if (clip > 0) divisor = ((norm + 1e-6) / clip).clamp_min(1.0).to(at::kFloat);
  for (auto& group : groups_) step(group, rate, found_inf, divisor);
  zero_gradients(parameters_);
}

void AdamW::step_flat(double rate, const at::Tensor& norm, double clip) {
  const auto& flat = *parameters_.flat();
  rate_.fill_(rate);
  ops::adamw_step(flat.values, flat.gradients, exp_avg_, exp_avg_sq_,
                  flat.working.defined() ? std::optional<at::Tensor>(flat.working) : std::nullopt, steps_made_, norm,
                  rate_, flat.decayed, options_.beta1, options_.beta2, options_.eps, options_.weight_decay, clip,
                  loss_scale(parameters_));
  if (!flat.loss_scale.defined()) return;
  const auto found_inf = norm.isfinite().logical_not().to(at::kFloat);
  auto loss_scale = flat.loss_scale, good_steps = flat.good_steps;
  at::_amp_update_scale_(loss_scale, good_steps, found_inf, kGrowth, 1.0 / kGrowth, kGrowthSteps);
}

void AdamW::step(Group& group, double rate, const at::Tensor& found_inf, const std::optional<at::Tensor>& divisor) {
  // A parameter that no gradient reached (the memory of a model trained without it, say) stays as it is.
  Tensors parameters, grads, exp_avgs, exp_avg_sqs, steps;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const auto& grad = group.parameters[i].grad();
    if (!grad.defined()) continue;
    parameters.push_back(group.parameters[i]);
    grads.push_back(grad);
    exp_avgs.push_back(group.exp_avgs[i]);
    exp_avg_sqs.push_back(group.exp_avg_sqs[i]);
    steps.push_back(group.steps[i]);
  }
  if (parameters.empty()) return;
  at::_foreach_add_(steps, 1);
  at::_fused_adamw_(parameters, grads, exp_avgs, exp_avg_sqs, {}, steps, rate, options_.beta1, options_.beta2,
                    group.decay, options_.eps,
                    /*amsgrad=*/false, /*maximize=*/false, divisor, found_inf);
  at::_foreach_sub_(steps, Tensors(steps.size(), found_inf));
}

}  // namespace memformer::engine
