#include "ops/fold_layer_norm/fold_layer_norm.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"

// Saved for backward: the weights, and those and the biases of the norms. With G (R, D) and h (R) the gradients of a
// folded weight and bias:
//   dL/dW = G diag(w) + h b^T      dL/dc = h      dL/dw = column sums of G * W      dL/db = h W
namespace memformer::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using at::TensorList;
constexpr const char* kOp = "fold_layer_norm";

void check(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases, TensorList sinks,
           ScalarType dtype) {
  require(!weights.empty() && norm_weights.size() == weights.size() && norm_biases.size() == weights.size(), "CONFIG",
          "fold_layer_norm: needs as many weights and biases of norms as weights, and one at least; got ",
          weights.size(), ", ", norm_weights.size(), " and ", norm_biases.size());
  require(biases.empty() || biases.size() == weights.size(), "CONFIG", "fold_layer_norm: needs a bias for each of ",
          weights.size(), " weights, or none, got ", biases.size());
  const auto master = weights[0].scalar_type();
  require(master == at::kFloat || master == at::kDouble, "DTYPE",
          "fold_layer_norm: weights must be float32 or float64, got ", c10::toString(master));
  require(dtype == master || (master == at::kFloat && (dtype == at::kBFloat16 || dtype == at::kHalf)), "DTYPE",
          "fold_layer_norm: dtype must be the weights' dtype ", c10::toString(master),
          ", or bfloat16 or float16 beside float32, got ", c10::toString(dtype));
  require_shape(kOp, "weights", weights[0], {-1, -1});
  const int64_t rows = weights[0].size(0), width = weights[0].size(1);
  std::vector<Tensor> parameters;
  const auto require_each = [&](const char* name, TensorList tensors, std::initializer_list<int64_t> shape) {
    for (const auto& tensor : tensors) {
      require_shape(kOp, name, tensor, shape);
      require_like(kOp, name, tensor, "the first weight", weights[0]);
      parameters.push_back(tensor);
    }
  };
  require_each("weights", weights, {rows, width});
  require_each("biases", biases, {rows});
  require_each("norm_weights", norm_weights, {width});
  require_each("norm_biases", norm_biases, {width});
  require(sinks.empty() || sinks.size() == parameters.size(), "CONFIG", "fold_layer_norm: needs a sink for each of ",
          parameters.size(), " parameters, or none, got ", sinks.size());
  for (size_t i = 0; i < sinks.size(); ++i) {
    require(sinks[i].sizes() == parameters[i].sizes(), "SHAPE",
            "fold_layer_norm: sinks must have the shapes of their parameters; number ", i, " has ", sinks[i].sizes(),
            ", needs ", parameters[i].sizes());
    require_dtype(kOp, "sinks", sinks[i], master);
    require(sinks[i].is_contiguous(), "SHAPE", "fold_layer_norm: sinks must be contiguous");
  }
}

/// Layers above each other: (L R, D), (L R).
std::tuple<Tensor, Tensor> forward_cpu(TensorList weights, TensorList biases, TensorList norm_weights,
                                       TensorList norm_biases, ScalarType dtype) {
  std::vector<Tensor> folded, folded_biases;
  for (size_t l = 0; l < weights.size(); ++l) {
    folded.push_back(weights[l] * norm_weights[l]);
    const auto moved = at::mv(weights[l], norm_biases[l]);
    folded_biases.push_back(biases.empty() ? moved : moved + biases[l]);
  }
  return {at::cat(folded).to(dtype), at::cat(folded_biases).to(dtype)};
}

/// The gradients of weights, biases, norm_weights, norm_biases, one after the other; none where there are sinks.
std::vector<Tensor> backward_cpu(const Tensor& grad, const Tensor& grad_bias, TensorList weights,
                                 TensorList norm_weights, TensorList norm_biases, bool with_biases, TensorList sinks) {
  const size_t L = weights.size();
  const int64_t R = weights[0].size(0);
  std::vector<Tensor> of_weights, of_biases, of_norm_weights, of_norm_biases;
  for (size_t l = 0; l < L; ++l) {
    const auto G = grad.narrow(0, static_cast<int64_t>(l) * R, R),
               h = grad_bias.narrow(0, static_cast<int64_t>(l) * R, R);
    of_weights.push_back(at::addr(G * norm_weights[l], h, norm_biases[l]));
    if (with_biases) of_biases.push_back(h.clone());
    of_norm_weights.push_back((G * weights[l]).sum(0));
    of_norm_biases.push_back(at::mv(weights[l].t(), h));
  }
  std::vector<Tensor> all;
  for (const auto* kind : {&of_weights, &of_biases, &of_norm_weights, &of_norm_biases})
    all.insert(all.end(), kind->begin(), kind->end());
  if (sinks.empty()) return all;
  for (size_t i = 0; i < sinks.size(); ++i) sinks[i].add_(all[i]);
  return {};
}

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::fold_layer_norm_forward");
  return op;
}

class FoldLayerNorm : public torch::autograd::Function<FoldLayerNorm> {
 public:
  /// tensors: weights, biases if there are any, norm weights, norm biases. Returns weight, bias, and their sinks.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, int64_t layers,
                                                bool with_biases, int64_t dtype, const SinkList& sinks,
                                                TensorList tensors) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto L = static_cast<size_t>(layers), norms = L * (with_biases ? 2 : 1);
    const auto weights = tensors.slice(0, L), norm_weights = tensors.slice(norms, L),
               norm_biases = tensors.slice(norms + L, L);
    auto [weight, bias] = forward_op().call(weights, tensors.slice(L, norms - L), norm_weights, norm_biases,
                                            static_cast<ScalarType>(dtype));
    auto weight_sink = at::zeros(weight.sizes(), weights[0].options()),
         bias_sink = at::zeros(bias.sizes(), weights[0].options());
    torch::autograd::variable_list saved = weights.vec();
    saved.insert(saved.end(), norm_weights.begin(), norm_weights.end());
    saved.insert(saved.end(), norm_biases.begin(), norm_biases.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["with_biases"] = with_biases;
    context->saved_data["sinks"] = sinks.tensors;
    context->saved_data["weight_sink"] = weight_sink;  // no saved variables: what reads the folded tensors adds to them
    context->saved_data["bias_sink"] = bias_sink;
    context->set_materialize_grads(false);
    context->mark_non_differentiable({weight_sink, bias_sink});
    return {weight, bias, weight_sink, bias_sink};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = find_op<decltype(backward_cpu)>("memformer::fold_layer_norm_backward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const size_t L = saved.size() / 3;
    const bool with_biases = context->saved_data["with_biases"].toBool();
    const auto sinks = context->saved_data["sinks"].toTensorVector();
    auto grad = context->saved_data["weight_sink"].toTensor(), grad_bias = context->saved_data["bias_sink"].toTensor();
    if (grads[0].defined()) grad = grad + grads[0];
    if (grads[1].defined()) grad_bias = grad_bias + grads[1];
    const TensorList all(saved);
    auto sent = op.call(grad, grad_bias, all.slice(0, L), all.slice(L, L), all.slice(2 * L, L), with_biases, sinks);
    sent.resize(L * (with_biases ? 4 : 3));
    torch::autograd::variable_list result{{}, {}, {}, {}};
    result.insert(result.end(), sent.begin(), sent.end());
    return result;
  }
};

std::vector<Tensor> joined(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases) {
  std::vector<Tensor> tensors;
  for (const auto& list : {weights, biases, norm_weights, norm_biases})
    tensors.insert(tensors.end(), list.begin(), list.end());
  return tensors;
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Results without_gradient(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases,
                         TensorList sinks, ScalarType dtype) {
  check(weights, biases, norm_weights, norm_biases, sinks, dtype);
  const auto none = at::empty({0}, weights[0].options());
  auto [weight, bias] = forward_op().call(weights, biases, norm_weights, norm_biases, dtype);
  return {weight, bias, none, none};
}

Results with_gradient(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases,
                      TensorList sinks, ScalarType dtype) {
  const auto tensors = joined(weights, biases, norm_weights, norm_biases);
  const bool wanted =
      std::any_of(tensors.begin(), tensors.end(), [](const Tensor& one) { return one.requires_grad(); });
  if (!at::GradMode::is_enabled() || !wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    return without_gradient(weights, biases, norm_weights, norm_biases, sinks, dtype);
  }
  check(weights, biases, norm_weights, norm_biases, sinks, dtype);
  auto results = FoldLayerNorm::apply(static_cast<int64_t>(weights.size()), !biases.empty(),
                                      static_cast<int64_t>(dtype), SinkList{sinks.vec()}, TensorList(tensors));
  return {results[0], results[1], results[2], results[3]};
}

}  // namespace

FoldedLinear fold_layer_norm(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases,
                             TensorList sinks, ScalarType dtype) {
  static const auto op = find_op<decltype(with_gradient)>("memformer::fold_layer_norm");
  const auto [weight, bias, weight_sink, bias_sink] = op.call(weights, biases, norm_weights, norm_biases, sinks, dtype);
  const auto layers = static_cast<int64_t>(weights.size());
  FoldedLinear folded{weight.chunk(layers), bias.chunk(layers), {}, {}};
  if (weight_sink.dim() == 2) {
    folded.weight_sinks = weight_sink.chunk(layers);
    folded.bias_sinks = bias_sink.chunk(layers);
  }
  return folded;
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "fold_layer_norm(Tensor[] weights, Tensor[] biases, Tensor[] norm_weights, Tensor[] norm_biases, Tensor[] sinks, "
      "ScalarType dtype)"
      " -> (Tensor weight, Tensor bias, Tensor weight_sink, Tensor bias_sink)");
  library.def(
      "fold_layer_norm_forward(Tensor[] weights, Tensor[] biases, Tensor[] norm_weights, Tensor[] norm_biases, "
      "ScalarType "
      "dtype)"
      " -> (Tensor weight, Tensor bias)");
  library.def(
      "fold_layer_norm_backward(Tensor grad, Tensor grad_bias, Tensor[] weights, Tensor[] norm_weights, Tensor[] "
      "norm_biases, bool with_biases,"
      " Tensor(a!)[] sinks) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("fold_layer_norm_forward", &forward_cpu);
  library.impl("fold_layer_norm_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("fold_layer_norm", &without_gradient);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("fold_layer_norm", &with_gradient); }

}  // namespace memformer::ops
