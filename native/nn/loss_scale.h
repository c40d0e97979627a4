// float16 has no room for small gradients, so inside a model every gradient is `scale` times its value. At the model's
// border it is not: gradients of outputs are multiplied on their way in, gradients of inputs divided on their way out.
// scale is a power of two, so both are exact, and only the parameters' gradients stay scaled, until the optimizer takes
// them.
#pragma once
#include "core/torch.h"

namespace memformer::nn {

class ScaleGradient : public torch::autograd::Function<ScaleGradient> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& factor) {
    context->save_for_backward({factor});
    return x.view_as(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    return {grads[0] * context->get_saved_variables()[0].to(grads[0].scalar_type()), at::Tensor()};
  }
};

/// x itself; dL/dx is multiplied by scale (). An undefined scale is 1.
inline at::Tensor multiply_gradient(const at::Tensor& x, const at::Tensor& scale) {
  return scale.defined() ? ScaleGradient::apply(x, scale) : x;
}

/// x itself; dL/dx is divided by scale ().
inline at::Tensor divide_gradient(const at::Tensor& x, const at::Tensor& scale) {
  return scale.defined() ? ScaleGradient::apply(x, scale.reciprocal()) : x;
}

}  // namespace memformer::nn
