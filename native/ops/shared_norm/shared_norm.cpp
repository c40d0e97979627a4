#include "ops/shared_norm/shared_norm.h"

#include "core/gradient_sink.h"
#include "core/layer_norm_eps.h"
#include "core/op_handle.h"

// Saved for backward: x, mean and rstd (N) each, the weights. With z the normalized x and h = sum over l of g_l w_l:
//   dL/dx = rstd (h - mean(h) - z mean(h z))      dL/dw_l = sum of g_l z      dL/db_l = sum of g_l over the rows
namespace memformer::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using at::TensorList;
constexpr const char* kOp = "shared_norm";

void check(const Tensor& x, TensorList weights, TensorList biases, TensorList weight_sinks, TensorList bias_sinks, ScalarType dtype) {
  const auto of_x = x.scalar_type();
  require(of_x == at::kFloat || of_x == at::kDouble, "DTYPE", "shared_norm: x must be float32 or float64, got ", c10::toString(of_x));
  require(x.dim() >= 1 && x.size(-1) > 0, "SHAPE", "shared_norm: x must have a last axis of at least one number, got ", x.sizes());
  require(dtype == of_x || (of_x == at::kFloat && (dtype == at::kBFloat16 || dtype == at::kHalf)), "DTYPE", "shared_norm: dtype must be x's dtype ",
          c10::toString(of_x), ", or bfloat16 or float16 beside a float32 x, got ", c10::toString(dtype));
  require(!weights.empty() && weights.size() == biases.size(), "CONFIG", "shared_norm: needs as many biases as weights, and one at least; got ",
          weights.size(), " and ", biases.size());
  for (size_t l = 0; l < weights.size(); ++l) {
    require_shape(kOp, "weights", weights[l], {x.size(-1)});
    require_shape(kOp, "biases", biases[l], {x.size(-1)});
    require_like(kOp, "weights", weights[l], "x", x);
    require_like(kOp, "biases", biases[l], "x", x);
  }
  require_sinks(kOp, weights, biases, weight_sinks, bias_sinks);
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward_cpu(const Tensor& x, TensorList weights, TensorList biases, ScalarType dtype) {
  const auto [z, mean, rstd] = at::native_layer_norm(x.contiguous(), {x.size(-1)}, {}, {}, kLayerNormEps);
  std::vector<Tensor> normed;
  for (size_t l = 0; l < weights.size(); ++l) normed.push_back(at::addcmul(biases[l], z, weights[l]).to(dtype));
  return {normed, mean.reshape({-1}), rstd.reshape({-1})};
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> backward_cpu(TensorList grads, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                                                          TensorList weights, TensorList weight_sinks, TensorList bias_sinks) {
  const int64_t D = x.size(-1);
  const auto rows = x.reshape({-1, D});
  const auto z = (rows - mean.unsqueeze(1)).mul_(rstd.unsqueeze(1));
  auto h = at::zeros_like(rows);
  std::vector<Tensor> grad_weights, grad_biases;
  for (size_t l = 0; l < grads.size(); ++l) {
    const auto g = grads[l].reshape({-1, D}).to(x.scalar_type());
    h.addcmul_(g, weights[l]);
    const auto grad_weight = (g * z).sum(0), grad_bias = g.sum(0);
    if (weight_sinks.empty()) {
      grad_weights.push_back(grad_weight);
      grad_biases.push_back(grad_bias);
    } else {
      weight_sinks[l].add_(grad_weight);
      bias_sinks[l].add_(grad_bias);
    }
  }
  const auto grad_x = (h - h.mean(1, true) - z * (h * z).mean(1, true)).mul_(rstd.unsqueeze(1));
  return {grad_x.view_as(x), grad_weights, grad_biases};
}

using Signature = std::vector<Tensor>(const Tensor&, TensorList, TensorList, TensorList, TensorList, ScalarType);

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::shared_norm_forward");
  return op;
}

/// Opaque to autograd, which would take the tensors of a list for differentiable inputs.
struct Sinks {
  std::vector<Tensor> tensors;
};

class SharedNorm : public torch::autograd::Function<SharedNorm> {
 public:
  /// tensors: L weights, then L biases. sinks: none, or L of weights, then L of biases.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t layers, int64_t dtype,
                                                const Sinks& sinks, TensorList tensors) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto weights = tensors.slice(0, layers);
    auto [normed, mean, rstd] = forward_op().call(x, weights, tensors.slice(layers), static_cast<ScalarType>(dtype));
    torch::autograd::variable_list saved{x, mean, rstd};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["sinks"] = sinks.tensors;
    return normed;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    static const auto op = find_op<decltype(backward_cpu)>("memformer::shared_norm_backward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const auto sinks = context->saved_data["sinks"].toTensorVector();
    const size_t layers = saved.size() - 3;
    const TensorList weights = TensorList(saved).slice(3), all(sinks);
    auto [grad_x, grad_weights, grad_biases] = op.call(grads, saved[0], saved[1], saved[2], weights, sinks.empty() ? all : all.slice(0, layers),
                                                       sinks.empty() ? all : all.slice(layers));
    torch::autograd::variable_list result{grad_x, {}, {}, {}};
    grad_weights.resize(layers);
    grad_biases.resize(layers);
    result.insert(result.end(), grad_weights.begin(), grad_weights.end());
    result.insert(result.end(), grad_biases.begin(), grad_biases.end());
    return result;
  }
};

std::vector<Tensor> with_gradient(const Tensor& x, TensorList weights, TensorList biases, TensorList weight_sinks, TensorList bias_sinks,
                                  ScalarType dtype) {
  check(x, weights, biases, weight_sinks, bias_sinks, dtype);
  Sinks sinks{weight_sinks.vec()};
  sinks.tensors.insert(sinks.tensors.end(), bias_sinks.begin(), bias_sinks.end());
  auto tensors = weights.vec();
  tensors.insert(tensors.end(), biases.begin(), biases.end());
  return SharedNorm::apply(x, static_cast<int64_t>(weights.size()), static_cast<int64_t>(dtype), sinks, TensorList(tensors));
}

std::vector<Tensor> without_gradient(const Tensor& x, TensorList weights, TensorList biases, TensorList weight_sinks, TensorList bias_sinks,
                                     ScalarType dtype) {
  check(x, weights, biases, weight_sinks, bias_sinks, dtype);
  return std::get<0>(forward_op().call(x, weights, biases, dtype));
}

}  // namespace

std::vector<Tensor> shared_norm(const Tensor& x, TensorList weights, TensorList biases, TensorList weight_sinks, TensorList bias_sinks,
                                ScalarType dtype) {
  static const auto op = find_op<Signature>("memformer::shared_norm");
  return op.call(x, weights, biases, weight_sinks, bias_sinks, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("shared_norm(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] weight_sinks, Tensor[] bias_sinks, ScalarType dtype) -> Tensor[]");
  library.def("shared_norm_forward(Tensor x, Tensor[] weights, Tensor[] biases, ScalarType dtype) -> (Tensor[] normed, Tensor mean, Tensor rstd)");
  library.def(
      "shared_norm_backward(Tensor[] grads, Tensor x, Tensor mean, Tensor rstd, Tensor[] weights, Tensor(a!)[] weight_sinks,"
      " Tensor(b!)[] bias_sinks) -> (Tensor, Tensor[], Tensor[])");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("shared_norm_forward", &forward_cpu);
  library.impl("shared_norm_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("shared_norm", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("shared_norm", &with_gradient); }

}  // namespace memformer::ops
