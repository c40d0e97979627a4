// Backward passes, and what is done with the gradients of a model's parameters.
#pragma once
#include "engine/future.h"
#include "nn/parameters.h"

namespace memformer::engine {

/// Adds the gradients of sum_i <outputs_i, grads_i> to the leaves and frees the graph. An undefined gradient is 1, for
/// scalars. Outputs that no gradient can reach are passed over; it is an error (NATIVE) if that leaves none.
void backward(const Tensors& outputs, const Tensors& grads);

/// The gradient a leaf has gathered; zeros where nothing reached it.
at::Tensor gradient(const at::Tensor& leaf);

/// The gradient of a parameter as it is now, a copy, without the loss scale of float16. Throws CONFIG for an unknown
/// name.
at::Tensor parameter_gradient(const nn::Parameters& parameters, const std::string& name);

/// What the parameters' gradients are multiplied by, () float32; none: 1.
std::optional<at::Tensor> loss_scale(const nn::Parameters& parameters);

/// The L2 norm over all parameters' gradients, (). The same on any number of threads.
at::Tensor gradient_norm(const nn::Parameters& parameters);

void zero_gradients(const nn::Parameters& parameters);

/// The L2 norm over all parameters' gradients, () ; then scales them to at most `most` (0: never). whole (): the norm
/// to go by instead, of a larger model that these parameters are a part of.
at::Tensor clip_gradients(const nn::Parameters& parameters, double most, const at::Tensor& whole = {});

}  // namespace memformer::engine
