#include "ops/kv_projection/kv_projection.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "ops/common/matrix_product.h"
#include "ops/common/packed_kv.h"

// Saved for backward: the context and the weights. With G = [dL/dk_0, dL/dv_0, …] (B N, 2 D L) and W all weights above
// each other (normed: also what was normed and by what; G is then sent back through the norm first):
//   dL/dcontext = G W      dL/dW = G^T context      dL/db = sum of G over the rows
namespace memformer::ops {
namespace {

using at::Tensor;
using at::TensorList;
constexpr const char* kOp = "kv_projection";

void check(const Tensor& context, TensorList weights, TensorList biases, TensorList weight_sinks, TensorList bias_sinks,
           int64_t heads) {
  require_floating(kOp, "context", context);
  require_shape(kOp, "context", context, {-1, -1, -1});
  require(!weights.empty() && weights.size() == biases.size(), "CONFIG",
          "kv_projection: needs as many biases as weights, and one at least; got ", weights.size(), " and ",
          biases.size());
  require_shape(kOp, "weights", weights[0], {-1, context.size(2)});
  const int64_t rows = weights[0].size(0);
  for (size_t l = 0; l < weights.size(); ++l) {
    require_shape(kOp, "weights", weights[l], {rows, context.size(2)});
    require_shape(kOp, "biases", biases[l], {rows});
    require_like(kOp, "weights", weights[l], "context", context);
    require_like(kOp, "biases", biases[l], "context", context);
  }
  require(heads > 0 && rows > 0 && rows % (2 * heads) == 0, "CONFIG",
          "kv_projection: the rows of a weight must be 2 x heads x a whole number of at least 1, got ", rows, " with ",
          heads, " heads");
  require_sinks(kOp, weights, biases, weight_sinks, bias_sinks);
}

/// The tensors above each other as one, without a copy; undefined where they do not lie side by side.
Tensor joined(TensorList parts) {
  auto shape = parts[0].sizes().vec();
  for (size_t l = 0; l < parts.size(); ++l) {
    const bool beside =
        parts[l].is_contiguous() && parts[l].storage().is_alias_of(parts[0].storage()) &&
        parts[l].storage_offset() == parts[0].storage_offset() + static_cast<int64_t>(l) * parts[0].numel();
    if (!beside) return {};
  }
  shape[0] *= static_cast<int64_t>(parts.size());
  return parts[0].detach().as_strided(shape, parts[0].strides());
}

/// Weights (or biases) as one matrix where that is free, else one a layer.
std::vector<Tensor> groups(TensorList parts) {
  if (auto all = joined(parts); all.defined()) return {all};
  return parts.vec();
}

struct Groups {
  Groups(TensorList weights, TensorList biases) : weights(groups(weights)), biases(groups(biases)) {
    if (this->weights.size() == this->biases.size()) return;
    this->weights = weights.vec();
    this->biases = biases.vec();
  }
  std::vector<Tensor> weights, biases;
};

/// Norms the keys of rows (n, L 2 H E), the values of a layer behind its keys; what they were multiplied by.
Tensor norm_keys(const Tensor& rows, int64_t heads, int64_t E) {
  constexpr Registered<"memformer::head_norm_in_place", Tensor(const Tensor&, int64_t, int64_t, int64_t, double)> op;
  return op(rows, E, 2 * heads, heads, 1.0);
}

Tensor norm_keys_backward(const Tensor& grad, const Tensor& rows, const Tensor& scales, int64_t heads, int64_t E) {
  using Backward = Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t, double);
  constexpr Registered<"memformer::head_norm_backward", Backward> op;
  return op(grad, rows, scales, E, 2 * heads, heads, 1.0);
}

/// Keys and values as they lie in memory, a matrix (B N, 2 D) a layer, or one of all; what the keys were normed by.
struct Packed {
  std::vector<Tensor> rows, scales;

  /// Of `count` layers from `first` on, of `all`: rows and scales side by side, contiguous.
  std::pair<Tensor, Tensor> of(int64_t first, int64_t count, int64_t all) const {
    const auto part = [&](const std::vector<Tensor>& tensors) {
      if (static_cast<int64_t>(tensors.size()) == all) return at::cat(TensorList(tensors).slice(first, count), 1);
      const auto each = tensors[0].size(1) / all;
      return tensors[0].narrow(1, first * each, count * each).contiguous();
    };
    return {part(rows), part(scales)};
  }
};

std::vector<Tensor> project(const Tensor& context, TensorList weights, TensorList biases, int64_t heads, bool normed,
                            Packed* kept) {
  const int64_t B = context.size(0), N = context.size(1), rows = weights[0].size(0), E = rows / (2 * heads);
  const Groups group(weights, biases);
  std::vector<Tensor> parts;
  for (size_t g = 0; g < group.weights.size(); ++g) {
    const auto packed = affine(context.reshape({B * N, context.size(2)}), group.weights[g], group.biases[g]);
    if (normed) {
      const auto scale = norm_keys(packed, heads, E);
      if (kept != nullptr) {
        kept->rows.push_back(packed);
        kept->scales.push_back(scale);
      }
    }
    const auto split = packed.view({B, N, packed.size(1) / (heads * E), heads, E}).unbind(2);
    for (const auto& part : split) parts.push_back(part.transpose(1, 2));
  }
  return parts;
}

/// (B, H, N, E) -> (B N, H E), free where attention's backward pass has left it token by token.
Tensor rows_of(const Tensor& grad) {
  return grad.transpose(1, 2).reshape({grad.size(0) * grad.size(2), grad.size(1) * grad.size(3)});
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> project_backward(TensorList grads, const Tensor& context,
                                                                              TensorList weights,
                                                                              TensorList weight_sinks,
                                                                              TensorList bias_sinks, TensorList rows,
                                                                              TensorList scales) {
  using Accumulate = void(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&);
  constexpr Registered<"memformer::linear_accumulate", Accumulate> accumulate;
  const auto x = context.reshape({context.size(0) * context.size(1), context.size(2)});
  Tensor grad_context;
  std::vector<Tensor> grad_weights, grad_biases;
  /// One product for each of grad_context and the weight: sink and weight hold the rows that `grad` (n, rows) belongs
  /// to.
  const auto step = [&](const Tensor& grad, const Tensor& weight, const Tensor& weight_sink, const Tensor& bias_sink) {
    if (weight_sink.defined())
      accumulate(grad, x, weight_sink, bias_sink);
    else {
      grad_weights.push_back(matrix_product(grad.t(), x));
      grad_biases.push_back(grad.sum(0));
    }
    if (!grad_context.defined())
      grad_context = matrix_product(grad, weight);
    else if (grad.is_cpu())
      grad_context.add_(matrix_product(grad, weight));
    else
      grad_context.addmm_(grad, weight);
  };
  /// The gradients of these keys and values as one matrix; no copy where attention's backward pass has left them so.
  const auto above = [](TensorList pairs) {
    if (auto rows = packed_kv_rows(pairs); rows.defined()) return rows;
    std::vector<Tensor> rows;
    for (const auto& grad : pairs) rows.push_back(rows_of(grad));
    return at::cat(rows, 1);
  };
  const Packed packed{rows.vec(), scales.vec()};
  const auto layers = static_cast<int64_t>(weights.size());
  /// The same of `count` layers from `first` on, of what the weights gave, before the norm.
  const auto unnormed = [&](int64_t first, int64_t count) {
    const auto of_pairs = above(grads.slice(2 * first, 2 * count));
    if (packed.rows.empty()) return of_pairs;
    const auto [y, r] = packed.of(first, count, layers);
    return norm_keys_backward(of_pairs, y, r, grads[0].size(1), grads[0].size(3));
  };
  const bool sinks = !weight_sinks.empty();
  const auto weight = joined(weights), weight_sink = sinks ? joined(weight_sinks) : Tensor(),
             bias_sink = sinks ? joined(bias_sinks) : Tensor();
  if (weight.defined() && weight_sink.defined() && bias_sink.defined())
    step(unnormed(0, layers), weight, weight_sink, bias_sink);
  else
    for (size_t l = 0; l < weights.size(); ++l)
      step(unnormed(static_cast<int64_t>(l), 1), weights[l], sinks ? weight_sinks[l] : Tensor(),
           sinks ? bias_sinks[l] : Tensor());
  return {grad_context.view_as(context), grad_weights, grad_biases};
}

constexpr Registered<"memformer::kv_projection_backward", decltype(project_backward)> backward_kernel;

struct KvProjection {
  struct Saved {
    Tensor context;
    std::vector<Tensor> weights;
    Packed kept;
    std::vector<Tensor> weight_sinks, bias_sinks;  // other backward passes add to them meanwhile
    auto variables() { return std::tie(context, weights, kept.rows, kept.scales); }
  };

  static std::vector<Tensor> forward(Saved* saved, const Tensor& context, TensorList weights, TensorList biases,
                                     TensorList weight_sinks, TensorList bias_sinks, int64_t heads, bool normed) {
    check(context, weights, biases, weight_sinks, bias_sinks, heads);
    if (saved != nullptr) *saved = {context, weights.vec(), {}, weight_sinks.vec(), bias_sinks.vec()};
    return project(context, weights, biases, heads, normed, saved != nullptr ? &saved->kept : nullptr);
  }

  static std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> backward(const Saved& s,
                                                                               const BackwardPass& pass) {
    auto all =
        backward_kernel(pass.gradients, s.context, s.weights, s.weight_sinks, s.bias_sinks, s.kept.rows, s.kept.scales);
    std::get<1>(all).resize(s.weights.size());  // undefined where there are sinks
    std::get<2>(all).resize(s.weights.size());
    return all;
  }
};

}  // namespace

std::vector<Tensor> kv_projection(const Tensor& context, TensorList weights, TensorList biases, TensorList weight_sinks,
                                  TensorList bias_sinks, int64_t heads, bool normed) {
  constexpr Registered<"memformer::kv_projection", Signature<KvProjection>> op;
  return op(context, weights, biases, weight_sinks, bias_sinks, heads, normed);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<KvProjection>(
      library,
      "kv_projection(Tensor context, Tensor[] weights, Tensor[] biases, Tensor[] weight_sinks, Tensor[] bias_sinks, "
      "int heads, bool normed=False) -> Tensor[]");
  library.def(
      "kv_projection_backward(Tensor[] grads, Tensor context, Tensor[] weights, Tensor(a!)[] weight_sinks, "
      "Tensor(b!)[] bias_sinks, Tensor[] rows, Tensor[] scales) -> (Tensor, Tensor[], Tensor[])",
      on_every_device(&project_backward));
}

}  // namespace memformer::ops
