#include "engine/gradients.h"

#include "core/failure.h"
#include "ops/adamw/adamw.h"
#include "ops/linear/linear.h"

namespace memformer::engine {
namespace {

/// On a GPU weights get their gradients beside the main stream: at the end, also after a failure, it waits for them.
struct Join {
  at::Tensor like;
  ~Join() {
    try {
      if (like.is_cuda()) ops::synchronize_side_stream(like);
    } catch (...) {  // the device is gone: the failure that led here, or the next call, says so
    }
  }
};

}  // namespace

void backward(const Tensors& outputs, const Tensors& grads) {
  torch::autograd::variable_list roots, root_grads;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad()) continue;
    roots.push_back(outputs[i]);
    const auto& grad = i < grads.size() ? grads[i] : at::Tensor();
    root_grads.push_back(grad.defined() ? grad.to(outputs[i].options()).expand_as(outputs[i])
                                        : at::ones_like(outputs[i]));
  }
  require(!roots.empty(), "NATIVE", "backward: none of the ", outputs.size(),
          " outputs depends on anything that wants a gradient");
  const Join join{roots[0]};
  torch::autograd::backward(roots, root_grads, /*retain_graph=*/false, /*create_graph=*/false);
}

at::Tensor gradient(const at::Tensor& leaf) {
  const auto& grad = leaf.grad();
  return grad.defined() ? grad : at::zeros_like(leaf);
}

void zero_gradients(const nn::Parameters& parameters) {
  if (parameters.has_gradients()) parameters.gradients().zero_();
}

at::Tensor parameter_gradient(const nn::Parameters& parameters, const std::string& name) {
  const auto leaf = parameters.at(name);
  if (!parameters.has_gradients()) return at::zeros_like(leaf);
  const auto scale = loss_scale(parameters);
  return scale ? leaf.grad() / *scale : leaf.grad().clone();
}

std::optional<at::Tensor> loss_scale(const nn::Parameters& parameters) {
  const auto& scale = parameters.flat().loss_scale;
  return scale.defined() ? std::optional(scale) : std::nullopt;
}

at::Tensor gradient_norm(const nn::Parameters& parameters) {
  at::NoGradGuard no_grad;
  return parameters.has_gradients() ? ops::gradient_norm(parameters.gradients(), loss_scale(parameters))
                                    : at::zeros({}, parameters.dtype());
}

at::Tensor clip_gradients(const nn::Parameters& parameters, double most, const at::Tensor& whole) {
  at::NoGradGuard no_grad;
  const auto norm = whole.defined() ? whole : gradient_norm(parameters);
  if (most > 0 && parameters.has_gradients()) parameters.gradients().mul_((most / (norm + 1e-6)).clamp_max(1.0));
  return norm;
}

}  // namespace memformer::engine
