#include "engine/gradients.h"

#include "core/failure.h"

namespace memformer::engine {

void backward(const Tensors& outputs, const Tensors& grads) {
  torch::autograd::variable_list roots, root_grads;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad()) continue;
    roots.push_back(outputs[i]);
    const auto& grad = i < grads.size() ? grads[i] : at::Tensor();
    root_grads.push_back(grad.defined() ? grad.to(outputs[i].scalar_type()).expand_as(outputs[i]) : at::ones_like(outputs[i]));
  }
  require(!roots.empty(), "NATIVE", "backward: none of the ", outputs.size(), " outputs depends on anything that wants a gradient");
  torch::autograd::backward(roots, root_grads, /*retain_graph=*/false, /*create_graph=*/false);
}

at::Tensor gradient(const at::Tensor& leaf) {
  const auto& grad = leaf.grad();
  return grad.defined() ? grad : at::zeros_like(leaf);
}

void zero_gradients(const nn::Parameters& parameters) {
  for (const auto& parameter : parameters.all()) parameter.value.mutable_grad().reset();
}

at::Tensor clip_gradients(const nn::Parameters& parameters, double most) {
  at::NoGradGuard no_grad;
  Tensors grads;
  for (const auto& parameter : parameters.all())
    if (parameter.value.grad().defined()) grads.push_back(parameter.value.grad());
  if (grads.empty()) return at::zeros({}, parameters.dtype());
  const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(grads)));
  if (most > 0) at::_foreach_mul_(grads, (most / (norm + 1e-6)).clamp_max(1.0));
  return norm;
}

}  // namespace memformer::engine
