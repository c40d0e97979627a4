#include "ops/fold_layer_norm/fold_layer_norm.h"

#include "core/gradient_sink.h"
#include "core/operator.h"

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

constexpr Registered<"memformer::fold_layer_norm_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::fold_layer_norm_backward", decltype(backward_cpu)> backward_kernel;

struct FoldLayerNorm {
  static constexpr bool kMaterializesGradients = false;
  static constexpr size_t kDifferentiableResults = 2;  // weight and bias, without their sinks
  using List = std::vector<Tensor>;

  struct Saved {
    List weights, norm_weights, norm_biases;
    bool with_biases;
    List sinks;
    Tensor weight_sink, bias_sink;  // what reads the folded tensors adds to them
    auto variables() { return std::tie(weights, norm_weights, norm_biases); }
  };

  /// weight, bias, and their sinks: (0) where no gradient is to come.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Saved* saved, TensorList weights, TensorList biases,
                                                            TensorList norm_weights, TensorList norm_biases,
                                                            TensorList sinks, ScalarType dtype) {
    check(weights, biases, norm_weights, norm_biases, sinks, dtype);
    auto [weight, bias] = forward_kernel(weights, biases, norm_weights, norm_biases, dtype);
    const auto wide = weights[0].options();
    if (saved == nullptr) {
      const auto none = at::empty({0}, wide);
      return {weight, bias, none, none};
    }
    const auto weight_sink = at::zeros(weight.sizes(), wide), bias_sink = at::zeros(bias.sizes(), wide);
    *saved = {weights.vec(), norm_weights.vec(), norm_biases.vec(), !biases.empty(),
              sinks.vec(),   weight_sink,        bias_sink};
    return {weight, bias, weight_sink, bias_sink};
  }

  /// Those of all four lists, one list after the other.
  static std::tuple<List, List, List, List> backward(const Saved& s, const BackwardPass& pass) {
    const auto with = [&](const Tensor& sink, const Tensor& grad) { return grad.defined() ? sink + grad : sink; };
    auto all = backward_kernel(with(s.weight_sink, pass.gradients[0]), with(s.bias_sink, pass.gradients[1]), s.weights,
                               s.norm_weights, s.norm_biases, s.with_biases, s.sinks);
    all.resize(s.weights.size() * (s.with_biases ? 4 : 3));  // undefined where there are sinks
    return {std::move(all), {}, {}, {}};
  }
};

}  // namespace

FoldedLinear fold_layer_norm(TensorList weights, TensorList biases, TensorList norm_weights, TensorList norm_biases,
                             TensorList sinks, ScalarType dtype) {
  constexpr Registered<"memformer::fold_layer_norm", Signature<FoldLayerNorm>> op;
  const auto [weight, bias, weight_sink, bias_sink] = op(weights, biases, norm_weights, norm_biases, sinks, dtype);
  const auto layers = static_cast<int64_t>(weights.size());
  FoldedLinear folded{weight.chunk(layers), bias.chunk(layers), {}, {}};
  if (weight_sink.dim() == 2) {
    folded.weight_sinks = weight_sink.chunk(layers);
    folded.bias_sinks = bias_sink.chunk(layers);
  }
  return folded;
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<FoldLayerNorm>(
      library,
      "fold_layer_norm(Tensor[] weights, Tensor[] biases, Tensor[] norm_weights, Tensor[] norm_biases, Tensor[] sinks, "
      "ScalarType dtype) -> (Tensor weight, Tensor bias, Tensor weight_sink, Tensor bias_sink)");
  library.def(
      "fold_layer_norm_forward(Tensor[] weights, Tensor[] biases, Tensor[] norm_weights, Tensor[] norm_biases, "
      "ScalarType dtype) -> (Tensor weight, Tensor bias)",
      on_cpu(&forward_cpu));
  library.def(
      "fold_layer_norm_backward(Tensor grad, Tensor grad_bias, Tensor[] weights, Tensor[] norm_weights, Tensor[] "
      "norm_biases, bool with_biases, Tensor(a!)[] sinks) -> Tensor[]",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
